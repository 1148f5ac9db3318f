//! Replay under the conflict clause that a change was made under, because it is that of its triggers' bodies as well.
//!
//! What befalls the row itself stays what it would be without: an upsert by its key, and an error where another
//! constraint fails. So the statement under the clause never replaces a row (an insert by `ON CONFLICT DO NOTHING`, an
//! update by looking for such rows), and what it leaves undone is done again without the clause, which then fails as
//! it would have at once. Triggers that leave a row alone (`RAISE(IGNORE)`) are asked twice.

use rusqlite::Connection;

use crate::capture::clause::Clause;
use crate::error::Result;
use crate::record::Value;
use crate::replay::generator::{Kind, RowChange, Set, Statements, changed_values};
use crate::replay::replaced::{By, Replaced};
use crate::replay::table::{Column, Identity, Table, quote};
use crate::replay::text::{all_of, assignments, found};
use crate::replay::values::Slots;

/// The conflict clause of a statement that carries a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Or {
    /// Fails if a constraint does.
    Strict,
    /// Rows that are in the way of a constraint are removed.
    Replace,
    /// Likewise, by what the constraints say.
    OwnReplace,
    /// That of the change.
    Carried(Clause),
}

impl Or {
    /// The clause for `change`, which replaces `replaced` without firing triggers.
    pub(super) fn for_change(
        table: &Table,
        change: &RowChange,
        replaced: &[Replaced],
        overwrite: bool,
    ) -> Or {
        let by_constraint = |r: &Replaced| r.change.replaced == Some(By::Constraint);
        match change.clause {
            _ if overwrite => Or::Replace,
            Clause::None if table.own_replace && replaced.iter().any(by_constraint) => Or::OwnReplace,
            _ if !replaced.is_empty() => Or::Replace,
            _ if !table.has_triggers => Or::Strict,
            clause @ (Clause::Ignore | Clause::Replace) => Or::Carried(clause),
            _ if table.own_conflict_clause => Or::Carried(Clause::None),
            _ => Or::Strict,
        }
    }

    /// It may remove other rows.
    pub(super) fn replaces(self) -> bool {
        matches!(self, Or::Replace | Or::OwnReplace)
    }

    /// The clause with a blank behind it.
    pub(super) fn text(self, table: &Table) -> &'static str {
        match self {
            Or::Replace | Or::Carried(Clause::Replace) => "OR REPLACE ",
            Or::Carried(Clause::Ignore) => "OR IGNORE ",
            Or::OwnReplace | Or::Carried(_) => "",
            Or::Strict if table.own_conflict_clause => "OR ABORT ",
            Or::Strict => "",
        }
    }

    /// The end of an INSERT.
    pub(super) fn otherwise(self) -> &'static str {
        match self {
            Or::Carried(_) => " ON CONFLICT DO NOTHING",
            _ => "",
        }
    }
}

/// The UNIQUE constraints and indexes of a table, as far as they can be looked at with SQL.
#[derive(Debug, Default)]
pub(super) struct Unique {
    /// The columns of each, with collations.
    indexes: Vec<Vec<(usize, String)>>,
    /// There is one on expressions or generated columns.
    odd: bool,
}

impl Unique {
    /// Reads those of table `name`, whose rowid is the column `rowid` if it has one. Of a partial index all rows count.
    pub(super) fn load(
        conn: &Connection,
        name: &str,
        columns: &[Column],
        rowid: Option<&Vec<usize>>,
    ) -> Result<Unique> {
        let mut statement = conn.prepare_cached(
            "SELECT l.seq, x.name, x.coll FROM pragma_index_list(?1, 'main') AS l, pragma_index_xinfo(l.name, 'main') AS x
             WHERE l.\"unique\" AND x.key ORDER BY l.seq, x.seqno",
        )?;
        let mut rows = statement.query([name])?;
        let mut unique = Unique::default();
        let mut last = None;
        while let Some(row) = rows.next()? {
            let (index, column, collation): (i64, Option<String>, String) =
                (row.get(0)?, row.get(1)?, row.get(2)?);
            let position = columns.iter().position(|c| Some(&c.name) == column.as_ref());
            if last.replace(index) != Some(index) {
                unique.indexes.push(Vec::new());
            }
            match (unique.indexes.last_mut(), position) {
                (Some(index), Some(position)) => index.push((position, collation)),
                _ => unique.odd = true,
            }
        }
        let rowid = rowid.into_iter().flatten();
        unique
            .indexes
            .extend(rowid.map(|&k| vec![(k, "BINARY".to_owned())]));
        Ok(unique)
    }

    /// True if an update with `mask` may violate one; of what is not on columns nobody knows.
    fn may_fail(&self, mask: &[Set]) -> bool {
        mask.contains(&Set::New) && (self.odd || self.touched(mask).next().is_some())
    }

    /// Those on columns that an update with `mask` may violate.
    fn touched<'a>(&'a self, mask: &'a [Set]) -> impl Iterator<Item = &'a Vec<(usize, String)>> {
        let is_new = |(column, _): &(usize, String)| mask.get(*column) == Some(&Set::New);
        self.indexes.iter().filter(move |index| index.iter().any(is_new))
    }
}

impl Statements<'_> {
    /// Inserts what the statement before has left undone.
    pub(super) fn insert_again(&mut self, identity: Identity, change: &RowChange) {
        self.or = Or::Strict;
        let mut slots = Slots::default();
        let kind = match identity {
            Identity::Key => return self.recreate(&[], &change.after, change),
            Identity::Rowid(_) => {
                slots.push(&Value::Integer(change.rowid));
                Kind::InsertAgain(identity)
            }
            Identity::Content => Kind::InsertAgain(identity),
        };
        slots.extend(&change.after);
        self.add(kind, &[], slots);
    }

    /// Updates a row under `clause`.
    pub(super) fn carried_update(
        &mut self,
        clause: Clause,
        identity: Identity,
        mask: &[Set],
        change: &RowChange,
    ) {
        let may_replace = clause != Clause::Ignore;
        let unknown = self.table.unique.odd || identity == Identity::Content;
        if may_replace && unknown && self.table.unique.may_fail(mask) {
            self.or = Or::Strict;
            return self.update(identity, change);
        }
        let or = std::mem::replace(&mut self.or, Or::Strict);
        let mut kind = Kind::CarriedUpdate(identity);
        if identity != Identity::Key {
            self.guard_present(identity, change);
        } else if !self.recreate_first(mask, change) {
            kind = Kind::CarriedUpdateOnly(identity);
        }
        let mut slots = changed_values(mask, change);
        self.push_identity(identity, change, &mut slots);
        if may_replace && self.table.unique.touched(mask).next().is_some() {
            self.push_identity(identity, change, &mut slots);
            for (column, _) in self.table.unique.touched(mask).flatten() {
                if mask.get(*column) == Some(&Set::New) {
                    slots.extend(change.after.get(*column));
                }
            }
        }
        self.or = or;
        self.add(kind, mask, slots);
        self.or = Or::Strict;
        if change.changes_values() {
            let mut slots = changed_values(mask, change);
            self.push_identity(identity, change, &mut slots);
            let new = change.after.iter().zip(mask).filter(|(_, set)| **set == Set::New);
            slots.extend(new.map(|(value, _)| value));
            self.add(Kind::UpdateAgain(identity), mask, slots);
        }
    }

    /// Inserts the new image of a row that was deleted on the other side, before the update, so that `changes()` tells
    /// behind the update whether it was done. False if that can only be checked, which leaves `changes()` alone.
    fn recreate_first(&mut self, mask: &[Set], change: &RowChange) -> bool {
        let table = self.table;
        let null_key = table.key_values(&change.after).any(|v| *v == Value::Null);
        let key_changed = table
            .key_values(&change.after)
            .ne(table.key_values(&change.before));
        let mut slots = Slots::default();
        slots.extend(&change.after);
        slots.extend(table.key_values(&change.before));
        let kind = Kind::RecreateFirst {
            key_changed,
            null_key,
        };
        let compiles = self.compiles(kind, mask, &slots);
        self.add(kind, mask, slots);
        compiles
    }

    fn push_identity(&self, identity: Identity, change: &RowChange, slots: &mut Slots) {
        match identity {
            Identity::Key => slots.extend(self.table.key_values(&change.before)),
            Identity::Rowid(_) => slots.push(&Value::Integer(change.rowid)),
            Identity::Content => slots.extend(&change.before),
        }
    }
}

/// The text of an update under a clause, `kind`, behind [`Kind::RecreateFirst`] or a guard.
pub(super) fn update_text(
    table: &Table,
    names: &[String],
    or: Or,
    (kind, identity): (Kind, Identity),
    mask: &[Set],
    marks: &[&'static str],
) -> String {
    let mut marks = marks.iter();
    let set = assignments(table, names, mask, &mut marks);
    let mut terms = vec![found(table, names, identity, &mut marks)];
    if kind == Kind::CarriedUpdate(Identity::Key) {
        terms.push("changes() = 0".to_owned());
    }
    let name = quote(&table.name);
    if or != Or::Carried(Clause::Ignore) && table.unique.touched(mask).next().is_some() {
        let itself = found(table, names, identity, &mut marks);
        let alike: Vec<String> = table
            .unique
            .touched(mask)
            .map(|index| {
                let terms: Vec<String> = index
                    .iter()
                    .filter_map(|(column, collation)| {
                        let own = names.get(*column)?;
                        let value = match mask.get(*column) {
                            Some(Set::New) => (*marks.next()?).to_owned(),
                            _ => format!("{name}.{own}"),
                        };
                        Some(format!("other.{own} = {value} COLLATE {}", quote(collation)))
                    })
                    .collect();
                all_of(&terms)
            })
            .collect();
        terms.push(format!(
            "NOT EXISTS (SELECT 1 FROM {name} AS other WHERE NOT ({itself}) AND ({}))",
            alike.join(" OR ")
        ));
    }
    format!(
        "UPDATE {}{name} SET {set} WHERE {}",
        or.text(table),
        terms.join(" AND ")
    )
}

/// The text of an update that does what the one before has left undone, unless the row has the new values.
pub(super) fn update_again_text(
    table: &Table,
    names: &[String],
    or: Or,
    identity: Identity,
    mask: &[Set],
    marks: &[&'static str],
) -> String {
    let mut marks = marks.iter();
    let set = assignments(table, names, mask, &mut marks);
    let found = found(table, names, identity, &mut marks);
    let new = names.iter().zip(mask).filter(|(_, set)| **set == Set::New);
    let done: Vec<String> = new
        .zip(marks)
        .map(|((name, _), mark)| format!("{name} IS {mark} COLLATE BINARY"))
        .collect();
    format!(
        "UPDATE {}{} SET {set} WHERE {found} AND changes() = 0 AND NOT ({})",
        or.text(table),
        quote(&table.name),
        all_of(&done)
    )
}
