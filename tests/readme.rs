//! The README's C example is a program.

use std::path::Path;
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

#[test]
fn the_readme_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let tests: Vec<(&str, &str)> = readme
        .split('`')
        .filter_map(|word| word.split_once("::"))
        .filter(|(file, name)| !name.contains("::") && root.join(format!("tests/{file}.rs")).exists())
        .collect();
    assert!(tests.len() > 5, "{tests:?}");
    for (file, name) in tests {
        let text = std::fs::read_to_string(root.join(format!("tests/{file}.rs"))).unwrap();
        assert!(text.contains(&format!("fn {name}(")), "{file}::{name}");
    }
}
