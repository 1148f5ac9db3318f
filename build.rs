//! Generates the C headers from `src/capi` and names the shared library.
//!
//! The headers in `include` are part of the tree; they are rewritten only when they differ, and `.ci/run` fails if that
//! left something to commit.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// A header: its name, its include guard, and the modules of `src/capi` it is made from, in order.
struct Header {
    name: &'static str,
    guard: &'static str,
    includes: &'static str,
    modules: &'static [&'static str],
    /// Types that no function of this header mentions.
    extra_types: &'static [&'static str],
}

const HEADERS: [Header; 2] = [
    Header {
        name: "turso",
        guard: "TURSO_H",
        includes: "#include <stdbool.h>\n#include <stddef.h>\n#include <stdint.h>",
        modules: &[
            "types",
            "setup",
            "database",
            "connection",
            "statement",
            "row",
            "binding",
        ],
        extra_types: &["turso_slice_ref_t", "turso_database_open_flags_t"],
    },
    Header {
        name: "turso_sync",
        guard: "TURSO_SYNC_H",
        includes: "#include \"turso.h\"",
        modules: &[
            "sync_types",
            "conflict_types",
            "transform_types",
            "observe_types",
            "sync_database",
            "changes",
            "conflicts",
            "foreign",
            "operation",
            "observe",
            "run",
            "keeper",
            "io_item",
            "transform",
        ],
        extra_types: &[
            "turso_sync_conflict_policy_t",
            "turso_sync_conflict_resolution_t",
            "turso_sync_foreign_policy_t",
            "turso_sync_protocol_version_t",
        ],
    },
];

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=cbindgen.toml");
    println!("cargo:rerun-if-changed=src/capi");
    println!("cargo:rerun-if-changed=include");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux" || os == "android") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libturso_sync.so.0");
    }
    for header in &HEADERS {
        if let Err(e) = generate(&root, header).and_then(|text| write(&root, header, &text)) {
            println!("cargo:warning={}.h is not generated: {e}", header.name);
        }
    }
}

fn generate(root: &Path, header: &Header) -> Result<String, Box<dyn std::error::Error>> {
    let capi = root.join("src/capi");
    let mut config = cbindgen::Config::from_file(root.join("cbindgen.toml"))?;
    config.header = Some(
        fs::read_to_string(capi.join(format!("header/{}.txt", header.name)))?
            .trim_end()
            .into(),
    );
    config.include_guard = Some(header.guard.into());
    config.export.include = header.extra_types.iter().map(|name| (*name).to_owned()).collect();
    config.after_includes = Some(preamble(header)?);
    let mut builder = cbindgen::Builder::new().with_config(config);
    for module in header.modules {
        builder = builder.with_src(capi.join(format!("{module}.rs")));
    }
    let mut text = Vec::new();
    builder.generate()?.write(&mut text);
    Ok(String::from_utf8(text)?)
}

/// What stands between the include guard and the declarations.
fn preamble(header: &Header) -> Result<String, Box<dyn std::error::Error>> {
    let mut text = header.includes.to_owned();
    if header.name == "turso" {
        let part = |name: &str| env::var(format!("CARGO_PKG_VERSION_{name}"));
        let (major, minor, patch) = (part("MAJOR")?, part("MINOR")?, part("PATCH")?);
        write!(
            text,
            "\n\n/** Version of this header; turso_version() tells that of the library. */\n\
             #define TURSO_VERSION \"{major}.{minor}.{patch}\"\n\
             #define TURSO_VERSION_MAJOR {major}\n\
             #define TURSO_VERSION_MINOR {minor}\n\
             #define TURSO_VERSION_PATCH {patch}\n\
             /** The number at the end of the library's SONAME: other numbers mean other layouts or rules. */\n\
             #define TURSO_ABI_VERSION 0\n\n\
             #ifndef TURSO_API\n\
             #if defined(_WIN32) && !defined(TURSO_STATIC)\n\
             #define TURSO_API __declspec(dllimport)\n\
             #else\n\
             #define TURSO_API\n\
             #endif\n\
             #endif"
        )?;
    }
    Ok(text)
}

fn write(root: &Path, header: &Header, text: &str) -> Result<(), Box<dyn std::error::Error>> {
    let path = root.join("include").join(format!("{}.h", header.name));
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    Ok(fs::write(path, text)?)
}
