//! The fault matrix (DESIGN F.1 and F.2): every row is a test whose name begins with its number.
//!
//! A test may play several rows (`f011_f012_...`), and a row may have several tests. Where to look:
//!
//! | tests | rows |
//! |---|---|
//! | `tests/sim/scenarios` | disks, sessions and data of a pair, rows in which no group decides |
//! | `tests/sim/group/stories.rs` | both cores together: who serves, and what becomes of the data |
//! | `tests/failover/scenarios.rs` | the group's decisions, with a stand-in for the volume |
//! | `tests/pair`, `tests/daemon` and others | what needs a whole daemon, or nothing but the two mirror cores |

use super::strip::strip;

/// The numbers of the matrix's rows.
fn rows() -> impl Iterator<Item = u32> {
    (1..=45).chain(101..=126)
}

/// The numbers of the rows that a file's tests play. A test that is ignored plays nothing.
pub fn played(text: &str) -> Vec<u32> {
    let code = strip(text);
    let mut found = Vec::new();
    for (at, _) in code.match_indices("test]") {
        let opens = code[..at].rfind("#[").unwrap_or(at);
        let attribute = code[opens..at].trim_start_matches("#[");
        if !attribute.chars().all(|c| c.is_alphanumeric() || c == ':' || c == '_') {
            continue;
        }
        let Some(name) = name_after(&code[at + "test]".len()..]) else { continue };
        let numbers = name.split('_').map_while(|part| part.strip_prefix('f').filter(|digits| digits.len() == 3));
        found.extend(numbers.map_while(|digits| digits.parse::<u32>().ok()));
    }
    found
}

/// The name of the function that follows, behind nothing but attributes that don't ignore it.
fn name_after(code: &str) -> Option<&str> {
    let mut rest = code.trim_start();
    while let Some(attribute) = rest.strip_prefix("#[") {
        if attribute.starts_with("ignore") {
            return None;
        }
        rest = attribute.split_once(']')?.1.trim_start();
    }
    let rest = rest.strip_prefix("async ").unwrap_or(rest).strip_prefix("fn ")?;
    rest.split(['(', '<']).next()
}

/// Rows that none of the files' tests play.
pub fn unplayed<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<String> {
    let played: Vec<u32> = texts.flat_map(played).collect();
    rows().filter(|row| !played.contains(row)).map(|row| format!("F{row:03} has no test")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_plays_the_rows_its_name_begins_with() {
        assert_eq!(played("#[test]\nfn f001_f102_both() {}"), [1, 102]);
        assert_eq!(played("#[test]\n#[should_panic]\nfn f003_x() {}"), [3]);
        assert_eq!(played("#[tokio::test]\nasync fn f004_x() {}"), [4]);
    }

    #[test]
    fn what_is_no_test_plays_nothing() {
        for nothing in [
            "fn f001_helper() {}",
            "// #[test]\n// fn f001_commented_out() {}",
            "/// #[test] fn f001_in_words() {}\nfn other() {}",
            "const T: &str = \"#[test] fn f001_in_a_string() {}\";",
            "#[test]\n#[ignore]\nfn f001_x() {}",
            "#[test]\n#[ignore = \"why\"]\nfn f001_x() {}",
            "#[test]\nfn f1_too_short() {}",
            "#[test]\nfn after_f001_x() {}",
            "#[cfg(test)]\nfn f001_x() {}",
        ] {
            assert_eq!(played(nothing), Vec::<u32>::new(), "{nothing}");
        }
    }

    #[test]
    fn a_row_without_a_test_is_named() {
        assert!(unplayed(["#[test]\nfn f001_x() {}"].into_iter()).contains(&"F002 has no test".to_string()));
        assert!(!unplayed(["#[test]\nfn f001_x() {}"].into_iter()).contains(&"F001 has no test".to_string()));
    }
}
