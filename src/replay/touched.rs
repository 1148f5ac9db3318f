//! Which rows and tables the transactions touched that were taken out, so that those which build on them go as well.

use std::collections::{HashMap, HashSet};

use crate::capture::log::ChangeType;
use crate::error::Result;
use crate::record::{Value, encode};
use crate::replay::Transaction;
use crate::replay::ddl::{Ddl, SCHEMA_TABLE};
use crate::replay::generator::RowChange;
use crate::replay::table::{ForeignKey, Identity, Table};

/// Rows and tables of transactions that were taken out of the log.
#[derive(Default)]
pub(super) struct Touched {
    /// (table in lower case, what identifies the row)
    rows: HashSet<(String, Vec<u8>)>,
    /// Images of the rows by table, for foreign keys that refer to something else than the primary key.
    images: HashMap<String, Vec<Vec<(String, Value)>>>,
    /// Tables whose form was changed.
    tables: HashSet<String>,
}

impl Touched {
    /// True if nothing was taken out.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.tables.is_empty()
    }

    /// The form of table `name` was changed.
    pub fn add_table(&mut self, name: &str) {
        self.tables.insert(name.to_lowercase());
    }

    /// A row was changed.
    pub fn add_row(&mut self, table: &Table, change: &RowChange) {
        let name = table.name.to_lowercase();
        if table.virtual_kind.is_some() {
            self.rows.extend(virtual_place(change).map(|place| (name, place)));
            return;
        }
        for image in [&change.before, &change.after] {
            if !image.is_empty() {
                self.rows.insert((name.clone(), place(table, change, image)));
                let columns = table.columns.iter().map(|c| c.name.to_lowercase());
                let named = columns.zip(image.iter().cloned()).collect();
                self.images.entry(name.clone()).or_default().push(named);
            }
        }
    }

    /// `transaction` stays: where it has renamed a table, what was touched has that name from now on.
    pub fn follow(&mut self, transaction: &Transaction<'_>) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        for entry in transaction.entries() {
            let entry = entry?;
            if entry.table == SCHEMA_TABLE
                && let Some(Ddl::Alter { before, after, .. }) = Ddl::decode(&entry)?
                && before.kind == "table"
            {
                self.rename(&before.name.to_lowercase(), &after.name.to_lowercase());
            }
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) {
        if from == to {
            return;
        }
        let renamed: Vec<_> = self.rows.extract_if(|(table, _)| table == from).collect();
        self.rows
            .extend(renamed.into_iter().map(|(_, place)| (to.to_owned(), place)));
        if let Some(images) = self.images.remove(from) {
            self.images.entry(to.to_owned()).or_default().extend(images);
        }
        if self.tables.remove(from) {
            self.tables.insert(to.to_owned());
        }
    }

    /// True if a table of this name was changed.
    pub fn has_table(&self, name: &str) -> bool {
        self.tables.contains(&name.to_lowercase())
    }

    /// True if `change` is about a row that was touched, or makes a row refer to one.
    pub fn has_row(&self, table: &Table, change: &RowChange) -> Result<bool> {
        let name = table.name.to_lowercase();
        if table.virtual_kind.is_some() {
            return Ok(virtual_place(change).is_some_and(|place| self.rows.contains(&(name, place))));
        }
        let images = [&change.before, &change.after];
        let mut images = images.into_iter().filter(|image| !image.is_empty());
        if images.any(|image| self.rows.contains(&(name.clone(), place(table, change, image)))) {
            return Ok(true);
        }
        Ok(table
            .foreign_keys
            .iter()
            .any(|key| self.is_parent(key, &change.after)))
    }

    fn is_parent(&self, key: &ForeignKey, child: &[Value]) -> bool {
        let values: Option<Vec<&Value>> = key.from.iter().map(|&i| child.get(i)).collect();
        let Some(values) = values.filter(|v| !v.is_empty() && !v.contains(&&Value::Null)) else {
            return false;
        };
        let parent = key.parent.to_lowercase();
        if key.to.is_empty() {
            let key: Vec<Value> = values.into_iter().cloned().collect();
            return self.rows.contains(&(parent, encode(&key)));
        }
        let names: Vec<String> = key.to.iter().map(|n| n.to_lowercase()).collect();
        let matches = |row: &Vec<(String, Value)>| {
            names
                .iter()
                .zip(&values)
                .all(|(name, value)| row.iter().any(|(n, v)| n == name && v == *value))
        };
        self.images
            .get(&parent)
            .is_some_and(|rows| rows.iter().any(matches))
    }
}

/// What identifies a row of a virtual table, whose images may be unknown; `None` for a command.
fn virtual_place(change: &RowChange) -> Option<Vec<u8>> {
    let is_command = change.change_type == ChangeType::Update && change.after.is_empty();
    (!is_command).then(|| rowid_place(change))
}

fn rowid_place(change: &RowChange) -> Vec<u8> {
    [b"rowid ", &change.rowid.to_be_bytes()[..]].concat()
}

/// What identifies the row with the content `image`.
fn place(table: &Table, change: &RowChange, image: &[Value]) -> Vec<u8> {
    match table.identity(image) {
        Identity::Key => {
            let key: Vec<Value> = table.key_values(image).cloned().collect();
            encode(&key)
        }
        Identity::Rowid(_) => rowid_place(change),
        Identity::Content => [b"content ", &encode(image)[..]].concat(),
    }
}
