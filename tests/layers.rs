//! The layering of the crate, as a test: who may use what.

use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn source_files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    let name = |p: &Path| p.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
    let is_test = |name: &str| name.ends_with("tests.rs") || name.contains("/tests/");
    let files = paths.iter().map(|p| (name(p), fs::read_to_string(p).unwrap()));
    files.filter(|(name, _)| !is_test(name)).collect()
}

/// Code without comments and without what follows the unit tests' marker.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    text.lines()
        .filter(|l| !l.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn offenders(allowed: &[&str], words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (name, text) in source_files() {
        if allowed.iter().any(|a| name.starts_with(a)) {
            continue;
        }
        let code = code(&text);
        found.extend(
            words
                .iter()
                .filter(|w| code.contains(**w))
                .map(|w| format!("{name}: {w}")),
        );
    }
    found
}

#[test]
fn only_the_sqlite_layers_touch_sqlite() {
    // error.rs translates SQLite's codes; nothing else above these layers may know the library.
    let allowed = ["capture/", "replay/", "pages/", "server/", "error.rs"];
    assert_eq!(offenders(&allowed, &["rusqlite"]), Vec::<String>::new());
}

#[test]
fn only_driver_and_server_touch_the_network() {
    let allowed = ["driver/", "server/", "bin/"];
    let words = ["ureq::", "std::net", "tokio::", "axum::", "TcpStream"];
    assert_eq!(offenders(&allowed, &words), Vec::<String>::new());
}

#[test]
fn operations_have_no_clock_no_threads_no_chance() {
    let allowed = ["driver/", "server/", "bin/", "capi/"];
    let words = ["thread::spawn", "thread::sleep", "Instant::now", "rand::"];
    assert_eq!(offenders(&allowed, &words), Vec::<String>::new());
}

#[test]
fn the_protocol_is_pure() {
    let (mut found, words) = (
        Vec::new(),
        ["std::fs", "File::", "rusqlite", "SystemTime", "unsafe"],
    );
    for (name, text) in source_files()
        .into_iter()
        .filter(|(name, _)| name.starts_with("protocol/"))
    {
        found.extend(
            words
                .iter()
                .filter(|w| code(&text).contains(**w))
                .map(|w| format!("{name}: {w}")),
        );
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn unsafe_code_is_where_c_is_and_says_why() {
    let allowed = ["capi/", "capture/", "pages/", "server/"];
    assert_eq!(offenders(&allowed, &["unsafe "]), Vec::<String>::new());
    let mut found = Vec::new();
    for (name, text) in source_files() {
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let opens = line.contains("unsafe {") && !line.trim_start().starts_with("//");
            let said = lines[i.saturating_sub(8)..=i]
                .iter()
                .any(|l| l.contains("SAFETY") || l.contains("# Safety"));
            if opens && !said {
                found.push(format!("{name}:{}", i + 1));
            }
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn no_file_is_endless() {
    let long = |text: &str| code(text).lines().count() > 800;
    let found: Vec<String> = source_files()
        .into_iter()
        .filter(|(_, t)| long(t))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(found, Vec::<String>::new());
}
