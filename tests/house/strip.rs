//! Rust source without its comments and literals: what a search for words may look at. Lines stay where they are.

/// Replaces comments, strings and characters by spaces.
pub fn strip(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = comment(rest).or_else(|| literal(rest, &out)).unwrap_or(0);
        if skipped == 0 {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            out.extend(rest[..skipped].chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
            rest = &rest[skipped..];
        }
    }
    out
}

/// Bytes of the comment `text` begins with.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    Some(text.len())
}

/// Bytes of the string or character literal `text` begins with; `before` tells a prefix from the end of a name.
fn literal(text: &str, before: &str) -> Option<usize> {
    let in_name = before.ends_with(|last: char| last.is_alphanumeric() || last == '_');
    let prefix = text.find(|character: char| !"brc".contains(character)).unwrap_or(0);
    let body = &text[prefix..];
    if in_name && prefix > 0 {
        return None;
    }
    if text[..prefix].contains('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        if body[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let inside = &body[hashes + 1..];
            return Some(prefix + hashes + 1 + inside.find(&end).map_or(inside.len(), |at| at + end.len()));
        }
        return None;
    }
    if body.starts_with('"') {
        return Some(prefix + quoted(body, '"'));
    }
    // A quote that is followed by a name and no quote is a lifetime.
    let is_character = body.starts_with("'\\") || body.chars().nth(2) == Some('\'');
    (body.starts_with('\'') && is_character).then(|| prefix + quoted(body, '\''))
}

/// Bytes up to the closing quote, escapes passed over.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, character) in text.char_indices().skip(1) {
        if character == quote && !escaped {
            return at + 1;
        }
        escaped = character == '\\' && !escaped;
    }
    text.len()
}

#[test]
fn only_code_is_left() {
    let cases = [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        (r#"x("unsafe \" // no") y"#, "x(                 ) y"),
        ("r#\"dbg!(\"#;", "          ;"),
        ("b\"//\" 'a' '\\'' '\"' z", "                   z"),
        ("fn f<'a>(x: &'a str) // '", "fn f<'a>(x: &'a str)     "),
        ("number(\"x\")", "number(   )"),
        ("/// crate::io\ncrate::io", "             \ncrate::io"),
    ];
    for (text, wanted) in cases {
        assert_eq!(strip(text), wanted, "{text}");
    }
}
