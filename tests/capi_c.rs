//! The C ABI as a C developer meets it: headers, symbols, contract tests under sanitizers, examples.
//!
//! Needs `cc`, `c++`, `nm`, `readelf`; valgrind is used where it is installed.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-pedantic", "-Werror"];
const HEADERS: [&str; 2] = ["turso.h", "turso_sync.h"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The shared library that cargo built together with this test.
fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let library = test.with_file_name("libturso_sync.so");
    assert!(library.exists(), "{} is missing", library.display());
    library
}

/// A directory with the shared library under all the names by which programs look for it.
fn installed() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in [
        "libturso_sync.so",
        "libturso_sync.so.0",
        "libturso_sync_sdk_kit.so",
        "libturso_sdk_kit.so",
    ] {
        std::os::unix::fs::symlink(library(), dir.path().join(name)).unwrap();
    }
    dir
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn text(output: Output) -> String {
    String::from_utf8(output.stdout).unwrap()
}

/// Compiles `source` into `dir` and links it with the library there.
fn compile(dir: &Path, source: &str, name: &str, flags: &[&str]) -> PathBuf {
    let program = dir.join(name);
    run(Command::new("cc")
        .args(["-std=c99", "-g", "-I"])
        .arg(root().join("include"))
        .arg("-I")
        .arg(root().join("c-examples"))
        .args(STRICT)
        .args(flags)
        .arg("-o")
        .arg(&program)
        .arg(root().join(source))
        .arg("-L")
        .arg(dir)
        .arg(format!("-Wl,-rpath,{}", dir.display()))
        .args(["-lturso_sync", "-lpthread", "-ldl"]));
    program
}

/// Functions that the headers declare.
fn declared() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for header in HEADERS {
        let text = fs::read_to_string(root().join("include").join(header)).unwrap();
        for (at, _) in text.match_indices("\nTURSO_API") {
            let declaration = text[at..].split('(').next().unwrap();
            let name = declaration.split([' ', '*', '\n']).next_back().unwrap();
            names.insert(name.to_owned());
        }
    }
    names
}

#[test]
fn headers_compile_alone_in_every_dialect() {
    let dir = tempfile::tempdir().unwrap();
    for header in HEADERS {
        let source = dir.path().join("alone.c");
        fs::write(&source, format!("#include <{header}>\n#include <{header}>\n")).unwrap();
        for (compiler, language, standard) in [
            ("cc", "c", "-std=c99"),
            ("cc", "c", "-std=c11"),
            ("cc", "c", "-std=c2x"),
            ("c++", "c++", "-std=c++11"),
            ("c++", "c++", "-std=c++17"),
        ] {
            run(Command::new(compiler)
                .args(["-x", language, standard, "-fsyntax-only", "-I"])
                .arg(root().join("include"))
                .args(STRICT)
                .arg(&source));
        }
    }
}

#[test]
fn layouts_hold_in_c_and_in_cpp() {
    for (compiler, language, standard) in [("cc", "c", "-std=c99"), ("c++", "c++", "-std=c++17")] {
        run(Command::new(compiler)
            .args(["-x", language, standard, "-fsyntax-only", "-I"])
            .arg(root().join("include"))
            .args(STRICT)
            .arg(root().join("tests/c/layout.c")));
    }
}

#[test]
fn the_library_exports_what_the_headers_declare_and_nothing_else() {
    let symbols = text(run(Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(library())));
    let exported: BTreeSet<String> = symbols
        .lines()
        .filter_map(|line| line.split_whitespace().nth(2))
        .map(str::to_owned)
        .collect();
    assert_eq!(exported, declared());
    let dynamic = text(run(Command::new("readelf").arg("-d").arg(library())));
    assert!(dynamic.contains("soname: [libturso_sync.so.0]"), "{dynamic}");
}

#[test]
fn the_library_loads_under_the_names_of_the_sdk_kit() {
    let dir = installed();
    let program = compile(dir.path(), "tests/c/load.c", "load", &[]);
    for name in [
        "libturso_sync_sdk_kit.so",
        "libturso_sdk_kit.so",
        "libturso_sync.so.0",
    ] {
        run(Command::new(&program).arg(dir.path().join(name)).args(declared()));
    }
}

/// Runs a contract test plain, under ASan and UBSan, and under valgrind if there is one.
fn contract(name: &str) {
    let dir = installed();
    let source = format!("tests/c/{name}.c");
    let fresh = |part: &str| {
        let files = dir.path().join(part);
        fs::create_dir(&files).unwrap();
        files
    };
    let plain = compile(dir.path(), &source, "plain", &[]);
    run(Command::new(&plain).arg(fresh("files")));
    let flags = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    let sanitized = compile(dir.path(), &source, "sanitized", &flags);
    run(Command::new(&sanitized).arg(fresh("files-sanitized")));
    if Command::new("valgrind").arg("--version").output().is_ok() {
        run(Command::new("valgrind")
            .args([
                "-q",
                "--fair-sched=yes",
                "--error-exitcode=9",
                "--leak-check=full",
                "--errors-for-leak-kinds=definite",
            ])
            .arg("--show-leak-kinds=definite")
            .arg(&plain)
            .arg(fresh("files-valgrind")));
    }
}

#[test]
fn contract_of_the_plain_database() {
    contract("contract_database");
}

#[test]
fn contract_of_the_replica() {
    contract("contract_sync");
}

#[test]
fn contract_of_progress_and_errors() {
    contract("contract_observe");
}

#[test]
fn contract_of_keep_in_sync() {
    contract("contract_keeper");
}

#[test]
fn contract_of_conflicts_and_options() {
    contract("contract_conflicts");
}

#[test]
fn contract_of_transform_requests() {
    contract("contract_transform");
}

#[test]
fn contract_under_wrong_use() {
    contract("contract_misuse");
}

#[test]
fn the_static_library_can_live_beside_another_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("libturso_sync.a");
    run(Command::new("sh")
        .arg(root().join("tests/scripts/static.sh"))
        .arg(library().with_extension("a"))
        .arg(&archive));
    let program = dir.path().join("program");
    run(Command::new("cc")
        .args(["-std=c99", "-I"])
        .arg(root().join("include"))
        .args(STRICT)
        .arg("-o")
        .arg(&program)
        .arg(root().join("tests/c/static_clash.c"))
        .arg(&archive)
        .args(["-lpthread", "-ldl", "-lm"]));
    run(&mut Command::new(&program));
}

#[test]
fn sanitizers_are_really_on() {
    let dir = installed();
    let program = compile(
        dir.path(),
        "tests/c/use_after_free.c",
        "bad",
        &["-fsanitize=address"],
    );
    let output = Command::new(program).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("heap-use-after-free"));
}

#[test]
fn examples_compile_without_a_warning() {
    let dir = installed();
    for source in [
        "c-examples/quickstart.c",
        "c-examples/two_replicas.c",
        "c-examples/conflicts.c",
        "c-examples/transform.c",
        "c-examples/host_io.c",
        "tests/c/writer_loop.c",
    ] {
        compile(dir.path(), source, "example", &[]);
    }
    let make = run(Command::new("make")
        .args(["-C", "c-examples"])
        .current_dir(root())
        .arg(format!("INCLUDE={}", root().join("include").display()))
        .arg(format!("LIBDIR={}", dir.path().display()))
        .arg(format!("OUT={}", dir.path().display())));
    assert!(dir.path().join("two_replicas").exists(), "{}", text(make));
}
