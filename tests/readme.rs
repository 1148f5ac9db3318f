//! The README's C example is a program.

use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn the_example_compiles() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let code = readme
        .split("```c\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("readme.c");
    std::fs::write(&source, code).unwrap();
    let output = Command::new("cc")
        .args([
            "-std=c99",
            "-D_POSIX_C_SOURCE=200809L",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pedantic",
            "-c",
            "-o",
        ])
        .arg(dir.path().join("readme.o"))
        .arg(&source)
        .arg("-I")
        .arg(root.join("include"))
        .arg("-I")
        .arg(root.join("c-examples"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The source of the tests `name`.
fn test_file(name: &str) -> Option<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let places = [tests.join(format!("{name}.rs")), tests.join(name).join("main.rs")];
    places.into_iter().find(|path| path.exists())
}

/// The tests that a document names as `file::test`.
fn named_tests(document: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join(document)).unwrap();
    let named = text.split('`').filter_map(|word| word.split_once("::"));
    named
        .filter(|(file, name)| !name.contains("::") && test_file(file).is_some())
        .map(|(file, name)| (file.to_owned(), name.to_owned()))
        .collect()
}

#[test]
fn documents_name_tests_that_exist() {
    for (document, least) in [
        ("README.md", 6),
        ("docs/conflicts.md", 80),
        ("docs/guarantees.md", 25),
        ("docs/server.md", 15),
        ("docs/options.md", 15),
    ] {
        let tests = named_tests(document);
        assert!(tests.len() >= least, "{document}: {tests:?}");
        for (file, name) in tests {
            let text = std::fs::read_to_string(test_file(&file).unwrap()).unwrap();
            let start = format!("fn {name}(");
            let mut tests = text.split("#[test]").skip(1);
            let found = tests.any(|rest| rest.trim_start().starts_with(&start));
            assert!(found, "{document}: {file}::{name}");
        }
    }
}

/// Looks at the tables whose last column is `test`: each line names tests that exist. The number of lines.
fn lines_with_tests(document: &str) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join(document)).unwrap();
    let named = named_tests(document);
    let mut in_table = false;
    let mut lines = 0;
    for line in text.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let last = cells.last().copied().unwrap_or_default();
        in_table = line.starts_with('|') && (in_table || last == "test");
        if in_table && last != "test" && !last.starts_with("---") {
            let tests: Vec<&str> = last.split("`, `").map(|t| t.trim_matches('`')).collect();
            let known = |test: &&str| {
                named
                    .iter()
                    .any(|(file, name)| format!("{file}::{name}") == **test)
            };
            assert!(tests.iter().all(&known), "{line}");
            lines += 1;
        }
    }
    lines
}

#[test]
fn every_promise_has_its_test() {
    assert!(lines_with_tests("docs/guarantees.md") > 20);
    assert!(lines_with_tests("docs/options.md") > 10);
}

#[test]
fn every_line_of_the_rules_has_its_test_and_every_test_its_line() {
    assert!(lines_with_tests("docs/conflicts.md") > 60);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = named_tests("docs/conflicts.md");
    let rules = std::fs::read_to_string(root.join("tests/conflict_rules.rs")).unwrap();
    for rest in rules.split("#[test]\nfn ").skip(1) {
        let name = rest.split('(').next().unwrap();
        assert!(named.iter().any(|(_, n)| n == name), "{name} has no line");
    }
}
