//! Rules for Rust files.

use crate::strip::strip;

const FLOORS: [(&str, &[&str]); 5] = [
    ("base", &["base"]),
    ("wire", &["base", "wire"]),
    ("logic", &["base", "wire", "logic"]),
    ("io", &["base", "wire", "io"]),
    ("runtime", &["base", "wire", "logic", "io", "runtime"]),
];
const LINES_MAX: usize = 800;

/// A file names only modules of its own and of lower floors, and inside `logic` only its own part.
pub fn layers(path: &str, text: &str) -> Vec<String> {
    let Some(home) = module_of(path) else { return Vec::new() };
    let Some((floor, allowed)) = FLOORS.iter().find(|(floor, _)| home.first().is_some_and(|first| first == floor))
    else {
        return Vec::new();
    };
    let mut complaints = Vec::new();
    for (line, target) in named_modules(&strip(text), &home) {
        let Some(first) = target.first() else { continue };
        if FLOORS.iter().any(|(floor, _)| floor == first) && !allowed.contains(&first.as_str()) {
            complaints.push(format!("{path}:{line}: {floor} names {}", target.join("::")));
        }
        let (part, other) = (home.get(1), target.get(1));
        let parts = ["mirror", "export", "failover"];
        let strange =
            other.is_some_and(|other| parts.contains(&other.as_str()) && part.is_some_and(|part| part != other));
        if *floor == "logic" && first == "logic" && strange {
            complaints.push(format!("{path}:{line}: {} names {}", home.join("::"), target.join("::")));
        }
    }
    complaints
}

/// The module a source file is, as path from the crate's root; `None` for the roots themselves.
fn module_of(path: &str) -> Option<Vec<String>> {
    let inside = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let mut segments: Vec<String> = inside.split('/').map(String::from).collect();
    if segments.last().is_some_and(|last| last == "mod") {
        segments.pop();
    }
    (!["lib", "main"].contains(&segments[0].as_str())).then_some(segments)
}

/// Every module that code names from the crate's root or by `super`, with its line.
fn named_modules(code: &str, home: &[String]) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    for root in ["crate", "twinblock", "super"] {
        for (at, _) in code.match_indices(&format!("{root}::")) {
            if code[..at].ends_with(|last: char| last.is_alphanumeric() || last == '_' || last == ':') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            let mut base = Vec::new();
            let mut rest = &code[at..];
            if root == "super" {
                base = home.to_vec();
                base.extend(inline_modules(&code[..at]));
                while let Some(after) = rest.strip_prefix("super::") {
                    base.pop();
                    rest = after;
                }
            } else {
                rest = &rest[root.len() + 2..];
            }
            for path in paths(rest) {
                found.push((line, base.iter().cloned().chain(path).collect()));
            }
        }
    }
    found
}

/// Names of the `mod name {` that are open at the end of `code`.
fn inline_modules(code: &str) -> Vec<String> {
    let mut open: Vec<Option<String>> = Vec::new();
    for (at, brace) in code.match_indices(['{', '}']) {
        if brace == "}" {
            open.pop();
            continue;
        }
        let mut words = code[..at].split_whitespace().rev();
        let (name, keyword) = (words.next(), words.next());
        open.push(name.filter(|_| keyword == Some("mod")).map(String::from));
    }
    open.into_iter().flatten().collect()
}

/// The paths that `text` begins with: one, or those of a group in braces. Two segments are enough.
fn paths(text: &str) -> Vec<Vec<String>> {
    let Some(group) = text.strip_prefix('{') else {
        let name_end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        let name = text[..name_end].to_string();
        return match text[name_end..].strip_prefix("::") {
            Some(rest) if !name.is_empty() => {
                paths(rest).into_iter().map(|path| std::iter::once(name.clone()).chain(path).collect()).collect()
            }
            _ => vec![vec![name]],
        };
    };
    let mut depth = 0;
    let mut found = Vec::new();
    let mut start = 0;
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => {
                found.extend(paths(group[start..at].trim()));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                found.extend(paths(group[start..at].trim()));
                start = at + 1;
            }
            _ => {}
        }
    }
    found
}

/// `unsafe` is in `src/io` only, and a SAFETY sentence stands right above.
pub fn unsafety(path: &str, text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut complaints = Vec::new();
    for (number, code) in strip(text).lines().enumerate() {
        if !words(code).any(|word| word == "unsafe") {
            continue;
        }
        let place = format!("{path}:{}", number + 1);
        if !path.starts_with("src/io/") {
            complaints.push(format!("{place}: unsafe outside src/io"));
        }
        // The sentence may be a few lines long and stand above the statement the block is part of.
        let above = lines[number.saturating_sub(8)..=number].iter().rev().skip(1);
        let mut block = above.take_while(|line| !line.trim().is_empty());
        if !block.any(|line| line.contains("SAFETY:") || line.contains("# Safety")) {
            complaints.push(format!("{place}: unsafe without its SAFETY sentence"));
        }
    }
    complaints
}

/// No debugging macros, unfinished work or silenced warnings; nothing printed but by the command line.
pub fn leftovers(path: &str, text: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let shipped = if is_test(path) { "" } else { before_tests(text) };
    for (number, code) in strip(text).lines().enumerate() {
        for word in ["dbg!", "todo!", "unimplemented!", "allow(dead_code)", "allow(unused"] {
            if code.contains(word) {
                complaints.push(format!("{path}:{}: {word}", number + 1));
            }
        }
    }
    for (number, code) in strip(shipped).lines().enumerate() {
        let prints = ["println!", "print!", "eprint!", "eprintln!"];
        if !path.starts_with("src/runtime/") && words(code).any(|word| prints.contains(&word)) {
            complaints.push(format!("{path}:{}: prints", number + 1));
        }
    }
    for (number, line) in text.lines().enumerate() {
        if words(line).any(|word| ["TODO", "FIXME", "XXX", "HACK"].contains(&word)) {
            complaints.push(format!("{path}:{}: unfinished work", number + 1));
        }
    }
    complaints
}

/// At most [`LINES_MAX`] lines.
pub fn length(path: &str, text: &str) -> Vec<String> {
    let lines = text.lines().count();
    let complaint = format!("{path}: {lines} lines; look for the second thing in it");
    if lines > LINES_MAX { vec![complaint] } else { Vec::new() }
}

fn is_test(path: &str) -> bool {
    path.starts_with("tests/") || path.ends_with("/tests.rs") || path.contains("/tests/")
}

fn before_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '!').filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_higher_floor_is_seen_however_it_is_named() {
        for bad in [
            "use crate::io::disk;",
            "use crate::{base::ids, io};",
            "use crate::{base::{ids, range}, runtime::shard};",
            "fn f() { crate::io::disk::open() }",
            "use super::super::io::ring;",
            "use twinblock::io;",
            "mod tests { use super::super::super::io; }",
        ] {
            assert_eq!(layers("src/logic/mirror.rs", bad).len(), 1, "{bad}");
        }
        for good in [
            "use crate::base::ids;",
            "use super::super::wire::frame;",
            "// use crate::io;\nlet a = \"crate::io\";",
            "mod tests { use super::super::io; }",
            "/// See [`crate::runtime`].",
        ] {
            assert_eq!(layers("src/logic/mirror.rs", good), Vec::<String>::new(), "{good}");
        }
        assert_eq!(layers("src/io/ring.rs", "use crate::logic::mirror;").len(), 1);
        assert_eq!(layers("src/base/ids.rs", "use crate::wire::frame;").len(), 1);
        assert_eq!(layers("src/wire/frame.rs", "use crate::logic;").len(), 1);
        assert_eq!(layers("src/runtime/cli.rs", "use crate::{io, logic};").len(), 0);
    }

    #[test]
    fn the_parts_of_logic_keep_apart() {
        assert_eq!(layers("src/logic/mirror/core.rs", "use crate::logic::export::session;").len(), 1);
        assert_eq!(layers("src/logic/export/mod.rs", "use super::mirror;").len(), 1);
        assert_eq!(layers("src/logic/export/session.rs", "use super::super::mirror::Mirror;").len(), 1);
        assert_eq!(layers("src/logic/mirror/core.rs", "use crate::logic::mirror::interface;").len(), 0);
        assert_eq!(layers("src/logic/mod.rs", "pub mod mirror;").len(), 0);
    }

    #[test]
    fn unsafe_is_seen() {
        assert_eq!(unsafety("src/wire/a.rs", "// SAFETY: fine.\nunsafe { x() }").len(), 1);
        assert_eq!(unsafety("src/io/a.rs", "unsafe { x() }").len(), 1);
        assert_eq!(unsafety("src/io/a.rs", "// SAFETY: of something else.\n\nunsafe { x() }").len(), 1);
        assert_eq!(unsafety("src/io/a.rs", "// SAFETY: fine.\nlet y =\n    unsafe { x() };").len(), 0);
        assert_eq!(unsafety("src/wire/a.rs", "// unsafe\nlet unsafely = \"unsafe\";").len(), 0);
    }

    #[test]
    fn leftovers_are_seen() {
        for bad in
            ["dbg!(x);", "todo!()", "// TODO later", "#[allow(dead_code)]", "println!(\"x\");", "eprintln!(\"x\");"]
        {
            assert_eq!(leftovers("src/io/a.rs", bad).len(), 1, "{bad}");
        }
        assert_eq!(leftovers("src/io/a.rs", "fn f() {}\n#[cfg(test)]\nmod tests {\n println!(\"x\"); }").len(), 0);
        assert_eq!(leftovers("src/runtime/cli.rs", "println!(\"x\");").len(), 0);
        assert_eq!(leftovers("tests/a.rs", "println!(\"x\"); dbg!(x)").len(), 1);
    }

    #[test]
    fn length_is_seen() {
        assert_eq!(length("a", &"x\n".repeat(LINES_MAX)).len(), 0);
        assert_eq!(length("a", &"x\n".repeat(LINES_MAX + 1)).len(), 1);
    }
}
