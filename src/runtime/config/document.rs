//! Reads a TOML document key by key, and gathers everything that is wrong with it instead of stopping at the first.

use super::problem::{Problem, Problems};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value as it stands in the file.
pub type Value<'d> = &'d Spanned<DeValue<'d>>;

/// A file being read, with what was found wrong so far.
pub struct Document<'d> {
    file: &'d Path,
    text: &'d str,
    problems: RefCell<Vec<Problem>>,
}

impl<'d> Document<'d> {
    /// A document over the text of `file`.
    pub fn new(file: &'d Path, text: &'d str) -> Document<'d> {
        Document { file, text, problems: RefCell::default() }
    }

    /// Records a problem at a byte span of the file, or without a line.
    pub fn problem(
        &self,
        span: Option<std::ops::Range<usize>>,
        key: &str,
        reason: impl Into<String>,
        next: impl Into<String>,
    ) {
        let line = span.map(|span| self.line(span.start));
        self.problems.borrow_mut().push(Problem { line, key: key.into(), reason: reason.into(), next: next.into() });
    }

    /// Records a problem at a line of the file.
    pub fn problem_at(&self, line: usize, key: &str, reason: impl Into<String>, next: impl Into<String>) {
        let problem = Problem { line: Some(line), key: key.into(), reason: reason.into(), next: next.into() };
        self.problems.borrow_mut().push(problem);
    }

    /// Line number of a byte of the file, from 1.
    pub fn line(&self, offset: usize) -> usize {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// `value` if nothing was wrong, else everything that was.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Problems> {
        let mut list = self.problems.into_inner();
        match value {
            Some(value) if list.is_empty() => Ok(value),
            _ => {
                assert!(!list.is_empty(), "a configuration is only refused with a reason");
                list.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
                Err(Problems { file: self.file.to_path_buf(), list })
            }
        }
    }

    /// The file.
    pub fn file(&self) -> &'d Path {
        self.file
    }

    /// The directory of the file.
    pub fn folder(&self) -> &'d Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    /// A path of the file: relative ones are relative to the file.
    pub fn path(&self, text: &str) -> PathBuf {
        self.folder().join(text)
    }
}

/// One table of the document. Every key that is asked for is known; [`Section::end`] reports the others.
pub struct Section<'a, 'd> {
    document: &'a Document<'d>,
    /// Dotted path of the table, with a dot at the end, or empty for the root.
    pub prefix: String,
    /// Where the table stands.
    pub span: std::ops::Range<usize>,
    table: &'d DeTable<'d>,
    known: RefCell<Vec<String>>,
}

impl<'a, 'd> Section<'a, 'd> {
    /// The table at `span`, whose keys are shown behind `prefix`.
    pub fn new(
        document: &'a Document<'d>,
        prefix: impl Into<String>,
        span: std::ops::Range<usize>,
        table: &'d DeTable<'d>,
    ) -> Section<'a, 'd> {
        Section { document, prefix: prefix.into(), span, table, known: RefCell::default() }
    }

    /// The document the table belongs to.
    pub fn document(&self) -> &'a Document<'d> {
        self.document
    }

    /// Dotted path of a key of this table.
    pub fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The value of a key, if it is there; the key counts as known from here on.
    pub fn optional(&self, key: &str) -> Option<Value<'d>> {
        self.known.borrow_mut().push(key.to_string());
        self.table.get(key)
    }

    /// The value of a key; its absence is a problem.
    pub fn required(&self, key: &str, example: &str) -> Option<Value<'d>> {
        let value = self.optional(key);
        if value.is_none() {
            self.document.problem(
                Some(self.span.clone()),
                &self.key(key),
                "this setting is missing",
                format!("add `{example}`"),
            );
        }
        value
    }

    /// A text of a key; another type is a problem.
    pub fn text(&self, key: &str, value: Value<'d>) -> Option<&'d str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(key, value, "a text in quotes");
        }
        text
    }

    /// A list of texts with their places; a single text counts as a list of one.
    pub fn texts(&self, key: &str, value: Value<'d>) -> Vec<(&'d str, std::ops::Range<usize>)> {
        if let Some(text) = value.get_ref().as_str() {
            return vec![(text, value.span())];
        }
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of texts, as in [\"a\", \"b\"]");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push((text, item.span())),
                None => self.wrong_type(key, item, "a text in quotes"),
            }
        }
        texts
    }

    /// The tables of a key written as `[[key]]`.
    pub fn tables(&self, key: &str, value: Value<'d>) -> Vec<(&'d DeTable<'d>, std::ops::Range<usize>)> {
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(key, value, &format!("sections headed [[{}]]", self.key(key)));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_table() {
                Some(table) => tables.push((table, item.span())),
                None => self.wrong_type(key, item, &format!("sections headed [[{}]]", self.key(key))),
            }
        }
        tables
    }

    /// The table of a key written as `[key]`.
    pub fn table(&self, key: &str, value: Value<'d>) -> Option<Section<'a, 'd>> {
        match value.get_ref().as_table() {
            Some(table) => Some(Section::new(self.document, format!("{}.", self.key(key)), value.span(), table)),
            None => {
                self.wrong_type(key, value, "a section of its own");
                None
            }
        }
    }

    /// Keys of the table, in no order.
    pub fn keys(&self) -> impl Iterator<Item = (&'d str, std::ops::Range<usize>)> {
        self.table.iter().map(|(key, _)| (key.get_ref().as_ref(), key.span()))
    }

    /// The keys that nobody asked for, with their values.
    pub fn unknown(&self) -> impl Iterator<Item = (&'d str, Value<'d>)> {
        let known = self.known.borrow().clone();
        let entries = self.table.iter().map(|(key, value)| (key.get_ref().as_ref(), value));
        entries.filter(move |(key, _)| !known.iter().any(|name| name == key))
    }

    /// Reports every key that nobody asked for.
    pub fn end(self) {
        let known = self.known.borrow();
        for (key, span) in self.keys() {
            if known.iter().any(|name| name == key) {
                continue;
            }
            let nearest = known.iter().min_by_key(|name| distance(name, key)).filter(|name| distance(name, key) <= 2);
            let next = match nearest {
                Some(name) => format!("did you mean `{name}`?"),
                None => {
                    let mut names: Vec<&str> = known.iter().map(String::as_str).collect();
                    names.sort_unstable();
                    format!("remove it (known here: {})", names.join(", "))
                }
            };
            self.document.problem(Some(span), &self.key(key), "there is no such setting", next);
        }
    }

    /// Reports a value of the wrong type.
    pub fn wrong_type(&self, key: &str, value: Value<'d>, expected: &str) {
        let reason = format!("the value is {}, not {expected}", type_words(value.get_ref()));
        self.document.problem(Some(value.span()), &self.key(key), reason, format!("write {expected}"));
    }
}

/// The type of a value, with its article.
pub fn type_words(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
}

/// Single-letter edits between two words; finds what a mistyped key meant.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replace = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distance_counts_edits() {
        assert_eq!(distance("mirror", "mirror"), 0);
        assert_eq!(distance("miror", "mirror"), 1);
        assert_eq!(distance("heartbeet", "heartbeat"), 1);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
