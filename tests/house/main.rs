//! The rules of the house that a machine can hold: layers, unsafe, leftovers, lengths, links, dependencies.
//!
//! Each rule is a function from a file's name and text to complaints, so that it can be shown to complain.

mod documents;
mod matrix;
mod source;
mod strip;

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the repository: its path from the root, and its text.
struct File {
    path: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below `folder` (from the root) that end so, in order.
fn files(folder: &str, ending: &str) -> Vec<File> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![root().join(folder)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            // What is built, stored for fuzzing or kept by git is not ours to read.
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !["target", ".git", "corpus", "artifacts"].contains(&name.as_str()) {
                open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        } else if path.to_string_lossy().ends_with(ending)
            && let Ok(text) = fs::read_to_string(&path)
        {
            let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            found.push(File { path, text });
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// Fails with every complaint at once.
fn hold(rule: &str, complaints: Vec<String>) {
    assert!(complaints.is_empty(), "{rule}\n  {}", complaints.join("\n  "));
}

fn hold_for_each(rule: &str, files: &[File], check: impl Fn(&str, &str) -> Vec<String>) {
    assert!(!files.is_empty(), "nothing to check: {rule}");
    hold(rule, files.iter().flat_map(|file| check(&file.path, &file.text)).collect());
}

#[test]
fn a_file_imports_only_lower_floors() {
    hold_for_each("STYLE: base < wire < logic | io < runtime", &files("src", ".rs"), source::layers);
}

#[test]
fn unsafe_lives_in_io_and_says_why_it_is_sound() {
    hold_for_each("unsafe only in src/io, each with its SAFETY sentence", &files("src", ".rs"), source::unsafety);
}

#[test]
fn nothing_is_left_over() {
    let mut all = files("src", ".rs");
    all.extend(files("tests", ".rs").into_iter().filter(|file| !file.path.starts_with("tests/house/")));
    hold_for_each("no debugging, no unfinished work", &all, source::leftovers);
}

#[test]
fn every_row_of_the_fault_matrix_is_played_by_a_test() {
    let mut all = files("tests", ".rs");
    all.extend(files("src", ".rs"));
    all.retain(|file| !file.path.starts_with("tests/house/"));
    hold("the fault matrix", matrix::unplayed(all.iter().map(|file| file.text.as_str())));
}

#[test]
fn the_top_level_is_what_the_design_says() {
    let entries = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let names = folders.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let known = ["benches", "kernel-notes", "src", "target", "tests", "tools"];
    let strange = names.filter(|name| !name.starts_with('.') && !known.contains(&name.as_str()));
    hold("a newcomer finds these folders at the top and no others", strange.collect());
}

#[test]
fn no_file_tells_more_than_one_thing() {
    let mut all = files("src", ".rs");
    all.extend(files("tests", ".rs"));
    hold_for_each("at most 800 lines", &all, source::length);
}

#[test]
fn no_link_is_dead() {
    let exists = |path: &str| root().join(path).exists();
    let notes: Vec<String> = files("kernel-notes", ".md").into_iter().map(|file| file.path).collect();
    let mut all = files("", ".md");
    all.extend(files("src", ".rs"));
    all.extend(files("tests", ".rs").into_iter().filter(|file| !file.path.starts_with("tests/house/")));
    all.extend(files("tools", ""));
    hold_for_each("kernel notes and files that are linked exist", &all, |path, text| {
        let mut complaints = documents::dead_notes(path, text, &notes);
        if path.ends_with(".md") {
            complaints.extend(documents::dead_links(path, text, &exists));
        }
        complaints
    });
}

#[test]
fn every_kernel_note_is_whole() {
    let exists = |path: &str| root().join(path).exists();
    let mut notes = files("kernel-notes", ".md");
    notes.retain(|file| file.path != "kernel-notes/README.md");
    hold_for_each("a kernel note has its parts, and what it names exists", &notes, |path, text| {
        documents::incomplete_note(path, text, &exists)
    });
}

#[test]
fn every_direct_dependency_has_its_reason() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    hold(
        "deny.toml has one line of reason per direct dependency",
        documents::unexplained(&read("Cargo.toml"), &read("deny.toml")),
    );
}
