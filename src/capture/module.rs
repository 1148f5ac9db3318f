//! What the virtual-table modules that come with SQLite make of a CREATE VIRTUAL TABLE statement. Pure text work,
//! used by capture and by replay.
//!
//! Sources: <https://www.sqlite.org/fts5.html>, <https://www.sqlite.org/fts3.html>,
//! <https://www.sqlite.org/rtree.html>, <https://www.sqlite.org/geopoly.html>.

use crate::capture::authorizer::{identifier, strip_keyword};

/// A module whose tables are stored in ordinary tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Module {
    Fts5,
    /// FTS3 and FTS4.
    Fts4,
    Rtree,
    Geopoly,
}

/// Where the values of a full-text table are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// In the table itself.
    Own,
    /// In another table or view.
    External,
    /// Nowhere: the index alone is kept.
    Nowhere,
}

/// A virtual table as declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VirtualKind {
    pub module: Module,
    pub content: Content,
    /// Per row there is a row in `…_docsize`.
    pub has_sizes: bool,
    /// FTS5: values may carry a locale, which no SELECT shows.
    pub has_locales: bool,
}

impl VirtualKind {
    /// Reads the text that `sqlite_schema` has; `None` for modules not known here and for other statements.
    pub fn parse(sql: &str) -> Option<VirtualKind> {
        let rest = strip_keyword(sql, "CREATE")?;
        let rest = strip_keyword(rest.trim_start(), "VIRTUAL")?;
        let rest = strip_keyword(rest.trim_start(), "TABLE")?;
        let (_, rest) = identifier(rest)?;
        let (module, rest) = identifier(strip_keyword(rest.trim_start(), "USING")?)?;
        let (module, versioned) = match module.to_ascii_lowercase().as_str() {
            "fts5" => (Module::Fts5, true),
            "fts4" => (Module::Fts4, true),
            "fts3" => (Module::Fts4, false),
            "rtree" | "rtree_i32" => (Module::Rtree, false),
            "geopoly" => (Module::Geopoly, false),
            _ => return None,
        };
        let full_text = matches!(module, Module::Fts5 | Module::Fts4);
        let mut kind = VirtualKind {
            module,
            content: Content::Own,
            has_sizes: versioned,
            has_locales: false,
        };
        if full_text && versioned {
            for argument in arguments(rest) {
                if let Some((key, value)) = argument.split_once('=') {
                    kind.option(&key.trim().to_ascii_lowercase(), &unquoted(value.trim()));
                }
            }
        }
        Some(kind)
    }

    fn option(&mut self, key: &str, value: &str) {
        // FTS5 takes the beginning of an option's name for the option.
        let is = |name: &str| match self.module {
            Module::Fts5 => !key.is_empty() && name.starts_with(key),
            _ => name == key,
        };
        if is("content") {
            self.content = match value {
                "" => Content::Nowhere,
                _ => Content::External,
            };
        } else if is("columnsize") {
            self.has_sizes = value != "0";
        } else if is("matchinfo") {
            self.has_sizes = !value.eq_ignore_ascii_case("fts3");
        } else if is("locale") {
            self.has_locales = value != "0";
        }
    }

    /// The name by which SQL reaches the number that identifies a row; `columns` are those of [`Self::columns`].
    pub fn key<'a>(&self, columns: &'a [String]) -> &'a str {
        match (self.module, columns.first()) {
            (Module::Rtree, Some(first)) => first,
            (Module::Fts4, _) => "docid",
            _ => "rowid",
        }
    }

    /// Names of the columns that make a row, from all columns and whether they are hidden.
    pub fn columns(&self, all: impl Iterator<Item = (String, bool)>) -> Vec<String> {
        let (hidden, mut columns): (Vec<_>, Vec<_>) = all.partition(|(_, hidden)| *hidden);
        // FTS4 hides three: the table's own name, docid, and the language.
        let language = hidden.into_iter().nth(2);
        columns.extend(language.filter(|(name, _)| self.module == Module::Fts4 && name != "__langid"));
        columns.into_iter().map(|(name, _)| name).collect()
    }
}

/// The arguments in the parentheses at the start of `text`.
fn arguments(text: &str) -> Vec<String> {
    let Some(text) = text.trim_start().strip_prefix('(') else {
        return Vec::new();
    };
    let (mut found, mut current) = (Vec::new(), String::new());
    let (mut depth, mut quote) = (0, None);
    for c in text.chars() {
        match (quote, c) {
            (Some(close), _) if c == close => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'' | '`') => quote = Some(c),
            (None, '[') => quote = Some(']'),
            (None, '(') => depth += 1,
            (None, ')') if depth == 0 => break,
            (None, ')') => depth -= 1,
            (None, ',') if depth == 0 => {
                found.push(std::mem::take(&mut current));
                continue;
            }
            _ => {}
        }
        current.push(c);
    }
    found.push(current);
    found
}

/// `value` without the quotes around it. A doubled quote inside makes no difference here.
fn unquoted(value: &str) -> String {
    let inner = ["''", "\"\"", "``", "[]"].iter().find_map(|quotes| {
        let (open, close) = quotes.split_at(1);
        value.strip_prefix(open)?.strip_suffix(close)
    });
    inner.unwrap_or(value).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declarations_are_read_in_all_spellings() {
        let content = |sql: &str| VirtualKind::parse(sql).unwrap().content;
        for sql in [
            "CREATE VIRTUAL TABLE f USING fts5(a, b)",
            "CREATE VIRTUAL TABLE \"a b\" USING FTS5(a, tokenize = \"porter 'x,y'\", prefix='2 3')",
            "CREATE VIRTUAL TABLE f USING fts4",
            "CREATE VIRTUAL TABLE f USING fts4(content TEXT, \"a=b\")",
            "CREATE VIRTUAL TABLE f USING fts3(a, content=t)",
        ] {
            assert_eq!(content(sql), Content::Own, "{sql}");
        }
        for sql in [
            "CREATE VIRTUAL TABLE f USING fts5(a, content = 't', content_rowid=id)",
            "CREATE VIRTUAL TABLE f USING fts5(a,\n cont=\"t\")",
            "CREATE VIRTUAL TABLE [f] USING \"fts4\"(a, content=[t])",
        ] {
            assert_eq!(content(sql), Content::External, "{sql}");
        }
        for sql in [
            "CREATE VIRTUAL TABLE f USING fts5(a, content='', contentless_delete=1)",
            "CREATE VIRTUAL TABLE f USING fts5(a, content=)",
            "CREATE VIRTUAL TABLE f USING fts4(a, content=\"\")",
        ] {
            assert_eq!(content(sql), Content::Nowhere, "{sql}");
        }
        let parse = |sql| VirtualKind::parse(sql).unwrap();
        assert!(!parse("CREATE VIRTUAL TABLE f USING fts5(a, columnsize=0)").has_sizes);
        assert!(!parse("CREATE VIRTUAL TABLE f USING fts4(a, matchinfo=fts3)").has_sizes);
        assert!(parse("CREATE VIRTUAL TABLE f USING fts5(a, locale=1)").has_locales);
        assert_eq!(
            parse("CREATE VIRTUAL TABLE f USING rtree_i32(a)").module,
            Module::Rtree
        );
        assert_eq!(
            VirtualKind::parse("CREATE VIRTUAL TABLE f USING dbstat(main)"),
            None
        );
        assert_eq!(VirtualKind::parse("CREATE TABLE f(a)"), None);
    }
}
