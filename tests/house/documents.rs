//! Rules for what is written beside the code.

/// Mentions of kernel notes that don't exist: `kernel-notes/0001` and `kernel-notes/0001-title.md` are both good names.
pub fn dead_notes(path: &str, text: &str, notes: &[String]) -> Vec<String> {
    const FOLDER: &str = "kernel-notes/";
    let mut complaints = Vec::new();
    for (at, _) in text.match_indices(FOLDER) {
        let name = text[at + FOLDER.len()..].split(|c: char| !c.is_alphanumeric() && !"-._".contains(c)).next();
        let name = name.unwrap_or_default().trim_end_matches('.');
        if !name.starts_with(|first: char| first.is_ascii_digit()) {
            continue;
        }
        let wanted = format!("{FOLDER}{name}");
        let meant = |note: &String| *note == wanted || name.len() == 4 && note.starts_with(&wanted);
        if !notes.iter().any(meant) {
            complaints.push(format!("{path}:{}: no such note: {wanted}", line(text, at)));
        }
    }
    complaints
}

/// Relative links of a Markdown file that lead nowhere.
pub fn dead_links(path: &str, text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut complaints = Vec::new();
    for (at, _) in text.match_indices("](") {
        let target = text[at + 2..].split([')', '#', '\n']).next().unwrap_or_default();
        if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
        for part in target.split('/') {
            match part {
                ".." => drop(parts.pop()),
                "." => {}
                part => parts.push(part),
            }
        }
        if !exists(&parts.join("/")) {
            complaints.push(format!("{path}:{}: leads nowhere: {target}", line(text, at)));
        }
    }
    complaints
}

/// A note has all its parts, and what it names in `tools/`, `src/` and `tests/` exists.
pub fn incomplete_note(path: &str, text: &str, exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut complaints = Vec::new();
    for part in ["Claim", "Kernels seen", "How it was checked", "What we do", "Code"] {
        if !text.lines().any(|line| line == format!("## {part}")) {
            complaints.push(format!("{path}: no part \"{part}\""));
        }
    }
    let named: Vec<&str> = text
        .split(|c: char| c.is_whitespace() || "`()[],;".contains(c))
        .map(|word| word.trim_end_matches(['.', ':']))
        .filter(|word| ["tools/", "src/", "tests/"].iter().any(|folder| word.starts_with(folder)))
        .collect();
    for folder in ["tools/", "src/"] {
        if !named.iter().any(|name| name.starts_with(folder)) {
            complaints.push(format!("{path}: names nothing in {folder}"));
        }
    }
    complaints.extend(named.iter().filter(|name| !exists(name)).map(|name| format!("{path}: there is no {name}")));
    complaints
}

/// Direct dependencies without a line `# dependency NAME: reason` in deny.toml, and such lines without a dependency.
pub fn unexplained(cargo: &str, deny: &str) -> Vec<String> {
    let mut wanted: Vec<&str> = Vec::new();
    let mut inside = false;
    for line in cargo.lines() {
        if line.starts_with('[') {
            inside = line.trim_matches(['[', ']']).ends_with("dependencies");
        } else if inside
            && line.starts_with(|first: char| first.is_alphabetic())
            && let Some((name, _)) = line.split_once('=')
        {
            wanted.push(name.trim());
        }
    }
    let explained: Vec<(&str, &str)> = deny
        .lines()
        .filter_map(|line| line.strip_prefix("# dependency ")?.split_once(':'))
        .map(|(name, reason)| (name.trim(), reason.trim()))
        .collect();
    let mut complaints = Vec::new();
    for name in &wanted {
        match explained.iter().filter(|(explained, _)| explained == name).count() {
            1 => {}
            0 => complaints.push(format!("{name} has no reason")),
            _ => complaints.push(format!("{name} has more than one reason")),
        }
    }
    for (name, reason) in &explained {
        if !wanted.contains(name) {
            complaints.push(format!("{name} is explained but not used"));
        }
        if reason.len() < 10 {
            complaints.push(format!("{name}: that is no reason: {reason:?}"));
        }
    }
    complaints
}

fn line(text: &str, at: usize) -> usize {
    text[..at].matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_notes_are_seen() {
        let notes = ["kernel-notes/0001-direct-io.md".to_string()];
        for good in ["see kernel-notes/0001.", "kernel-notes/0001-direct-io.md", "in kernel-notes/"] {
            assert_eq!(dead_notes("a", good, &notes), Vec::<String>::new(), "{good}");
        }
        for bad in ["see kernel-notes/0002.", "kernel-notes/0001-other.md", "kernel-notes/00"] {
            assert_eq!(dead_notes("a", bad, &notes).len(), 1, "{bad}");
        }
    }

    #[test]
    fn dead_links_are_seen() {
        let exists = |path: &str| ["docs/a.md", "b.md"].contains(&path);
        for good in ["[x](a.md)", "[x](../b.md#part)", "[x](https://example.org/)", "[x](#here)", "[x](./a.md)"] {
            assert_eq!(dead_links("docs/c.md", good, &exists), Vec::<String>::new(), "{good}");
        }
        assert_eq!(dead_links("docs/c.md", "[x](b.md)", &exists).len(), 1);
    }

    #[test]
    fn incomplete_notes_are_seen() {
        let whole =
            "# 1\n## Claim\n## Kernels seen\n## How it was checked\n`tools/a`\n## What we do\n## Code\n`src/a.rs`.";
        let exists = |path: &str| ["tools/a", "src/a.rs"].contains(&path);
        assert_eq!(incomplete_note("n", whole, &exists), Vec::<String>::new());
        assert_eq!(incomplete_note("n", &whole.replace("## Claim", ""), &exists).len(), 1);
        assert_eq!(incomplete_note("n", &whole.replace("tools/a", "tools/b"), &exists).len(), 1);
        assert_eq!(incomplete_note("n", &whole.replace("`src/a.rs`", ""), &exists).len(), 1);
    }

    #[test]
    fn unexplained_dependencies_are_seen() {
        let cargo = "[package]\nname = \"x\"\n[dependencies]\na = \"1\"\n[dev-dependencies]\nb = { version = \"1\" }\n[lib]\nc = 1";
        let reason = |name: &str| format!("# dependency {name}: a good reason\n");
        assert_eq!(unexplained(cargo, &(reason("a") + &reason("b"))), Vec::<String>::new());
        assert_eq!(unexplained(cargo, &reason("a")), ["b has no reason"]);
        assert_eq!(unexplained(cargo, &(reason("a") + &reason("b") + &reason("c"))), ["c is explained but not used"]);
        assert_eq!(unexplained(cargo, "# dependency a: x\n# dependency b: a good reason").len(), 1);
    }
}
