//! Which program made each change of a statement: the statement itself, a trigger, or a foreign-key action.
//!
//! The other side redoes triggers, so whoever replays must know which changes a replayed change brings about. The
//! depth alone does not tell: what a BEFORE trigger wrote for a row that was then left alone (`RAISE(IGNORE)`, OR
//! IGNORE, OR FAIL) has no change above it that would make the other side fire the trigger, and neither have the
//! triggers of a view. SQLite reports the start of each program and of each of its steps to the trace callback
//! (`SQLITE_TRACE_STMT`, texts `-- TRIGGER name` and `-- step`, seen in 3.53), in order with the preupdate hook. Here
//! they are put together to the stack of programs as it was at each change.
//!
//! What is not told: when a program ends, and its depth. A program is taken for the child of the innermost one whose
//! step writes the trigger's table; if the depth of its first change says otherwise, it is moved, and what was taken
//! for ended is open again.

use std::collections::HashMap;
use std::sync::Arc;

use crate::capture::authorizer::{identifier, skip_blank, strip_keyword};
use crate::capture::buffer::{Buffer, Mark, RowChange, RowOp};
use crate::capture::clause::{Clause, skip_with};
use crate::capture::log::ACTION_DEPTH;
use crate::capture::sqlite::Db;
use crate::error::Result;

/// An `UPDATE` of a column as the authorizer announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Assignment {
    /// The trigger that does it; `None` for the statement itself.
    pub trigger: Option<String>,
    pub table: String,
    /// `ROWID` if it is the rowid under one of its own names.
    pub column: String,
}

/// What a statement does to rows of the main schema.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// What the statement itself does, and to which table or view, of any schema: TEMP triggers on others than the main one
    /// may write the main one.
    pub step: Option<Step>,
    /// Columns that it and its triggers assign.
    pub assigned: Vec<Assignment>,
}

impl Work {
    /// Takes over the conflict clause of the statement `sql`.
    pub(super) fn read_clause(&mut self, sql: &str) {
        if let (Some(step), Some(parsed)) = (&mut self.step, Step::parse(skip_with(sql))) {
            step.clause = parsed.clause;
        }
    }
}

/// What a statement, or a step of a trigger, does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub verb: RowOp,
    pub table: String,
    /// That of the table, as far as it is known: not of steps of triggers.
    pub schema: Option<String>,
    /// Its own conflict clause.
    pub clause: Clause,
}

impl Step {
    /// Reads INSERT, REPLACE, UPDATE and DELETE statements of a trigger; `None` for SELECT.
    fn parse(sql: &str) -> Option<Step> {
        let sql = skip_blank(sql);
        let keyword = |sql, keyword| strip_keyword(skip_blank(sql), keyword);
        let (verb, (clause, rest)) = if let Some(rest) = strip_keyword(sql, "INSERT") {
            let (clause, rest) = Clause::parse(rest)?;
            (RowOp::Insert, (clause, keyword(rest, "INTO")?))
        } else if let Some(rest) = strip_keyword(sql, "REPLACE") {
            (RowOp::Insert, (Clause::Replace, keyword(rest, "INTO")?))
        } else if let Some(rest) = strip_keyword(sql, "UPDATE") {
            (RowOp::Update, Clause::parse(rest)?)
        } else {
            let rest = keyword(strip_keyword(sql, "DELETE")?, "FROM")?;
            (RowOp::Delete, (Clause::None, rest))
        };
        let (table, _) = identifier(rest)?;
        Some(Step {
            verb,
            table,
            schema: None,
            clause,
        })
    }

    /// True unless it writes another schema than the main one.
    pub fn in_main(&self) -> bool {
        self.schema
            .as_ref()
            .is_none_or(|schema| schema.eq_ignore_ascii_case("main"))
    }

    /// True if it may do `op` to rows of `table`: INSERT may update (upsert), and both may delete (REPLACE).
    fn may(&self, op: RowOp, table: &str) -> bool {
        let does = match self.verb {
            RowOp::Insert => true,
            RowOp::Update => op != RowOp::Insert,
            RowOp::Delete => op == RowOp::Delete,
        };
        does && self.table.eq_ignore_ascii_case(table)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timing {
    Before,
    After,
    InsteadOf,
}

/// A trigger of the main schema, or a TEMP one.
#[derive(Debug)]
struct Trigger {
    name: String,
    table: String,
    /// The other side does not have it, nor the table or view that it is on.
    temporary: bool,
    timing: Timing,
    event: RowOp,
    /// Its text with blanks for all white space, as in the texts of steps.
    sql: String,
}

impl Trigger {
    fn parse(name: String, table: String, temporary: bool, sql: &str) -> Option<Trigger> {
        let keyword = |sql, keyword| strip_keyword(skip_blank(sql), keyword);
        let (_, mut rest) = identifier(keyword(keyword(sql, "CREATE")?, "TRIGGER")?)?;
        if let Some(after) = skip_blank(rest).strip_prefix('.') {
            rest = identifier(after)?.1;
        }
        let (timing, rest) = if let Some(rest) = keyword(rest, "AFTER") {
            (Timing::After, rest)
        } else if let Some(rest) = keyword(rest, "INSTEAD") {
            (Timing::InsteadOf, keyword(rest, "OF")?)
        } else {
            (Timing::Before, keyword(rest, "BEFORE").unwrap_or(rest))
        };
        let events = [
            ("INSERT", RowOp::Insert),
            ("UPDATE", RowOp::Update),
            ("DELETE", RowOp::Delete),
        ];
        let event = events
            .into_iter()
            .find(|(word, _)| keyword(rest, word).is_some())?
            .1;
        Some(Trigger {
            name,
            table,
            temporary,
            timing,
            event,
            sql: blanks(sql),
        })
    }
}

fn blanks(sql: &str) -> String {
    sql.replace(|c: char| c.is_ascii_whitespace(), " ")
}

/// Triggers by name in lower case; one of the main schema and a TEMP one may have the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Triggers {
    by_name: HashMap<String, Vec<Arc<Trigger>>>,
}

impl Triggers {
    /// Reads those of the main schema.
    pub fn load(db: Db) -> Result<Triggers> {
        let mut triggers = Triggers::default();
        triggers.add(db, false)?;
        Ok(triggers)
    }

    /// These and the TEMP ones.
    pub fn with_temporary(&self, db: Db) -> Result<Triggers> {
        let mut triggers = self.clone();
        triggers.add(db, true)?;
        Ok(triggers)
    }

    fn add(&mut self, db: Db, temporary: bool) -> Result<()> {
        let schema = if temporary { "temp" } else { "main" };
        let mut rows = db.prepare(&format!(
            "SELECT name, tbl_name, sql FROM {schema}.sqlite_schema WHERE type = 'trigger'"
        ))?;
        while rows.step()? {
            let name = rows.text(0);
            let key = name.to_ascii_lowercase();
            if let Some(trigger) = Trigger::parse(name, rows.text(1), temporary, &rows.text(2)) {
                self.by_name.entry(key).or_default().push(Arc::new(trigger));
            }
        }
        Ok(())
    }
}

/// One run of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run<'a> {
    pub work: &'a Work,
    /// PRAGMA recursive_triggers was on when it started.
    pub recursive: bool,
}

impl Run<'_> {
    /// The place of a change if no programs ran.
    pub fn place(&self, change: &RowChange) -> Place {
        let step = self.work.step.as_ref();
        let own = change.depth == 0;
        Place {
            depth: i64::from(change.depth),
            replaced: own && change.op == RowOp::Delete && step.is_some_and(|s| s.verb != RowOp::Delete),
            maker: own.then_some(None),
            clause: step.filter(|_| own).map_or(Clause::None, |s| s.clause),
        }
    }

    /// The places of all changes in `buffer` whose table `counts` accepts; the others get the default.
    pub fn places(&self, buffer: &Buffer, triggers: &Triggers, counts: impl Fn(usize) -> bool) -> Vec<Place> {
        places(buffer, triggers, self.work.step.as_ref(), self.recursive, counts)
    }

    /// True if `maker` has assigned a value to `column` in every update of `table`.
    pub fn assigns(&self, maker: &Option<Option<Arc<str>>>, table: &str, column: &str) -> bool {
        let Some(maker) = maker else { return false };
        self.work.assigned.iter().any(|a| {
            a.trigger.as_deref() == maker.as_deref()
                && a.table.eq_ignore_ascii_case(table)
                && a.column.eq_ignore_ascii_case(column)
        })
    }
}

/// Where a change stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// How many of the programs around it are run again by whoever replays the changes of the statement itself and of
    /// foreign-key actions; [`ACTION_DEPTH`] for the latter.
    pub depth: i64,
    /// A delete by an INSERT or UPDATE: a REPLACE has removed the row.
    pub replaced: bool,
    /// Who made it: `Some(None)` for the statement itself, otherwise the trigger; `None` for a foreign-key action.
    pub maker: Option<Option<Arc<str>>>,
    /// The conflict clause of the step that made it, unless one further out overrides it.
    pub clause: Clause,
}

/// A program on its way.
struct Frame {
    /// `None` for a foreign-key action, the statement itself, and what is not known.
    trigger: Option<Arc<Trigger>>,
    /// It is a foreign-key action.
    is_action: bool,
    /// Replaying the change it belongs to runs it again.
    redone: bool,
    /// A row that a REPLACE removed has started it, which takes recursive triggers.
    by_replace: bool,
    step: Option<Step>,
    /// Where in the trigger's text its next step is to be found.
    position: usize,
    parent: usize,
    /// It, or a program inside it, has changed a row, so its depth is certain.
    certain: bool,
    /// The programs, outermost first, that were taken for ended when it started.
    ended: Vec<usize>,
    /// Its BEFORE triggers that have run for a row, which has not changed so far.
    pending: Vec<usize>,
}

/// What the texts of a buffer mean.
enum Text {
    /// The start of a trigger: those that have the name.
    Program(Vec<Arc<Trigger>>),
    Step(String, Option<Step>),
}

struct Stack {
    /// All programs so far; parents come first. The first is the statement itself.
    frames: Vec<Frame>,
    /// Those that may still be running, outermost first.
    open: Vec<usize>,
    /// A trigger may fire while it runs.
    recursive: bool,
}

/// Puts the marks and changes of one run together.
fn places(
    buffer: &Buffer,
    triggers: &Triggers,
    step: Option<&Step>,
    recursive: bool,
    counts: impl Fn(usize) -> bool,
) -> Vec<Place> {
    let mut texts: Vec<Text> = buffer.texts().map(|text| meaning(text, triggers)).collect();
    let mut stack = Stack::new(step.cloned(), recursive);
    let mut makers = Vec::with_capacity(buffer.changes().len());
    let mut marks = buffer.marks().iter().peekable();
    for (i, change) in buffer.changes().iter().enumerate() {
        while let Some((_, mark)) = marks.next_if(|(at, _)| *at <= i) {
            match mark {
                Mark::ForeignKey => {
                    let last = makers
                        .last()
                        .and_then(|(frame, ..): &(Option<usize>, bool, Clause)| *frame);
                    stack.foreign_key(last);
                }
                Mark::Text(text) => {
                    if let Some(Text::Program(named)) = texts.get_mut(*text) {
                        stack.keep_meant(named);
                    }
                    stack.text(texts.get(*text));
                }
            }
        }
        let depth = usize::try_from(change.depth).unwrap_or(0);
        makers.push(if counts(change.table) {
            let (frame, replaced) = stack.change(depth, change.op, buffer.table(change.table));
            (Some(frame), replaced, stack.clause(change.op))
        } else {
            (None, false, Clause::None)
        });
    }
    let levels = stack.levels();
    let names = stack.names();
    let place = |(frame, replaced, clause): (Option<usize>, bool, Clause)| match frame {
        Some(frame) => Place {
            depth: levels.get(frame).copied().unwrap_or(0),
            replaced,
            maker: names.get(frame).cloned().flatten(),
            clause,
        },
        None => Place::default(),
    };
    makers.into_iter().map(place).collect()
}

fn meaning(text: &str, triggers: &Triggers) -> Text {
    let text = text.strip_prefix("-- ").unwrap_or(text);
    match text.strip_prefix("TRIGGER ") {
        Some(name) => {
            let named = triggers.by_name.get(&name.to_ascii_lowercase());
            Text::Program(named.cloned().unwrap_or_default())
        }
        None => Text::Step(blanks(text), Step::parse(text)),
    }
}

impl Stack {
    fn new(step: Option<Step>, recursive: bool) -> Stack {
        let statement = Frame {
            trigger: None,
            is_action: false,
            redone: false,
            by_replace: false,
            step,
            position: 0,
            parent: 0,
            certain: true,
            ended: Vec::new(),
            pending: Vec::new(),
        };
        Stack {
            frames: vec![statement],
            open: vec![0],
            recursive,
        }
    }

    /// The open program at `depth`.
    fn at(&self, depth: usize) -> Option<&Frame> {
        self.frames.get(*self.open.get(depth)?)
    }

    fn at_mut(&mut self, depth: usize) -> Option<&mut Frame> {
        self.frames.get_mut(*self.open.get(depth)?)
    }

    /// Opens a program below the innermost open one.
    fn push(&mut self, trigger: Option<Arc<Trigger>>) {
        self.frames.push(Frame {
            redone: trigger
                .as_ref()
                .is_none_or(|t| t.timing == Timing::After && !t.temporary),
            trigger,
            is_action: false,
            by_replace: false,
            step: None,
            position: 0,
            parent: self.open.last().copied().unwrap_or(0),
            certain: false,
            ended: Vec::new(),
            pending: Vec::new(),
        });
        self.open.push(self.frames.len() - 1);
    }

    /// Leaves `depth` programs open, unknown ones if there were fewer.
    fn resize(&mut self, depth: usize) {
        self.open.truncate(depth.max(1));
        while self.open.len() < depth {
            self.push(None);
        }
    }

    /// A foreign-key action has started, behind the change that program `last` made.
    fn foreign_key(&mut self, last: Option<usize>) {
        if let Some(depth) = last.and_then(|last| self.open.iter().rposition(|&frame| frame == last)) {
            self.open.truncate(depth + 1);
        }
        self.push(None);
        if let Some(action) = self.frames.last_mut() {
            action.is_action = true;
        }
    }

    fn text(&mut self, text: Option<&Text>) {
        match text {
            Some(Text::Program(named)) => match named.first() {
                Some(trigger) => self.program(trigger),
                None => self.push(None),
            },
            Some(Text::Step(sql, step)) => self.step(sql, step),
            None => {}
        }
    }

    /// Keeps of several triggers with the same name the one that an open program can have started. Each has a text of its
    /// own, so once is enough.
    fn keep_meant(&self, named: &mut Vec<Arc<Trigger>>) {
        let fires = |frame: &Frame, trigger: &Trigger| {
            let step = frame.step.as_ref();
            step.is_some_and(|step| step.may(trigger.event, &trigger.table))
        };
        let mut open = self.open.iter().rev().filter_map(|&id| self.frames.get(id));
        let meant = open.find_map(|frame| named.iter().position(|trigger| fires(frame, trigger)));
        if let Some(meant) = meant {
            named.swap(0, meant);
        }
        named.truncate(1);
    }

    /// A trigger's program has started.
    fn program(&mut self, trigger: &Arc<Trigger>) {
        let runs = |frame: &Frame| frame.trigger.as_ref().is_some_and(|t| Arc::ptr_eq(t, trigger));
        let outer = match self.recursive {
            true => self.open.len(),
            // It cannot be inside itself.
            false => (0..self.open.len())
                .find(|&depth| self.at(depth).is_some_and(runs))
                .unwrap_or(self.open.len()),
        };
        let fires = |depth: &usize| {
            let step = self.at(*depth).and_then(|frame| frame.step.as_ref());
            step.is_some_and(|step| step.may(trigger.event, &trigger.table))
        };
        // What a foreign-key action does is not known.
        let is_action = |depth: &usize| self.at(*depth).is_some_and(|f| f.is_action);
        let parent = (0..outer)
            .rev()
            .find(fires)
            .or_else(|| (0..outer).rev().find(is_action));
        self.open.truncate(outer);
        let ended = self.open.split_off(parent.map_or(outer, |depth| depth + 1));
        self.push(Some(Arc::clone(trigger)));
        if let Some(frame) = self.frames.last_mut() {
            frame.ended = ended;
        }
        self.note_cause();
        self.await_row();
    }

    /// Notes whether a REPLACE has started the innermost program.
    fn note_cause(&mut self) {
        let Some(&[parent, child]) = self.open.last_chunk() else {
            return;
        };
        let step = self.frames.get(parent).and_then(|frame| frame.step.as_ref());
        let writes = step.is_some_and(|step| step.verb != RowOp::Delete);
        if let Some(frame) = self.frames.get_mut(child) {
            let on_delete = frame.trigger.as_ref().is_some_and(|t| t.event == RowOp::Delete);
            frame.by_replace = on_delete && writes;
        }
    }

    /// The innermost program, if it is a BEFORE trigger, waits for its row to change.
    fn await_row(&mut self) {
        let Some(&[parent, child]) = self.open.last_chunk() else {
            return;
        };
        let trigger = |frames: &[Frame], id: usize| frames.get(id).and_then(|f| f.trigger.clone());
        let Some(own) = trigger(&self.frames, child).filter(|t| t.timing == Timing::Before && !t.temporary)
        else {
            return;
        };
        let same = |&id: &usize| trigger(&self.frames, id).is_some_and(|t| Arc::ptr_eq(&t, &own));
        let again = self
            .frames
            .get(parent)
            .is_some_and(|f| f.pending.iter().any(same));
        if let Some(parent) = self.frames.get_mut(parent) {
            // The same trigger again: the row before it was left alone.
            if again {
                parent.pending.clear();
            }
            parent.pending.push(child);
        }
    }

    /// A step of a trigger has started.
    fn step(&mut self, sql: &str, step: &Option<Step>) {
        let found = (1..self.open.len()).rev().find_map(|depth| {
            let frame = self.at(depth)?;
            let rest = frame.trigger.as_ref()?.sql.get(frame.position..)?;
            Some((depth, frame.position + rest.find(sql)? + sql.len()))
        });
        if let Some((depth, position)) = found {
            self.open.truncate(depth + 1);
            if let Some(frame) = self.at_mut(depth) {
                frame.position = position;
            }
        }
        if let Some(frame) = self.at_mut(self.open.len() - 1) {
            frame.step = step.clone();
            frame.pending.clear();
        }
    }

    /// A change at `depth`: returns the program that made it, and whether it is a row removed by REPLACE.
    fn change(&mut self, depth: usize, op: RowOp, table: &str) -> (usize, bool) {
        let may = |frame: Option<&Frame>| {
            let step = frame.and_then(|frame| frame.step.as_ref());
            step.is_some_and(|step| step.may(op, table))
        };
        let top = self.open.len() - 1;
        let misplaced =
            depth > 0 && top != depth && self.at(top).is_some_and(|f| !f.certain) && may(self.at(top));
        if misplaced && (depth > top || !may(self.at(depth))) {
            self.move_innermost(depth);
        }
        self.resize(depth + 1);
        for &id in &self.open {
            if let Some(frame) = self.frames.get_mut(id) {
                frame.certain = true;
            }
        }
        let maker = self.open.last().copied().unwrap_or(0);
        let fired = |frames: &[Frame], id: usize| {
            let trigger = frames.get(id).and_then(|f| f.trigger.as_ref());
            trigger.is_some_and(|t| t.event == op && t.table.eq_ignore_ascii_case(table))
        };
        let pending = self.frames.get_mut(maker).map(|f| std::mem::take(&mut f.pending));
        let (done, left): (Vec<_>, Vec<_>) = pending
            .unwrap_or_default()
            .into_iter()
            .partition(|&id| fired(&self.frames, id));
        for id in done {
            if let Some(frame) = self.frames.get_mut(id) {
                frame.redone = true;
            }
        }
        let Some(frame) = self.frames.get_mut(maker) else {
            return (maker, false);
        };
        frame.pending = left;
        let replaces = |step: &Step| op == RowOp::Delete && step.verb != RowOp::Delete;
        (maker, frame.step.as_ref().is_some_and(replaces))
    }

    /// The clause of the innermost open step, which did `op`.
    fn clause(&self, op: RowOp) -> Clause {
        let mut outer: Option<(Clause, RowOp)> = None;
        for frame in self.open.iter().filter_map(|&id| self.frames.get(id)) {
            let handed = match (&outer, &frame.trigger) {
                (Some((clause, verb)), Some(trigger)) => clause.handed_on(*verb, trigger.event),
                // A foreign-key action; or one that is not known.
                (Some(_), None) => Clause::Fails,
                (None, _) => Clause::None,
            };
            outer = Some(match &frame.step {
                Some(step) if handed == Clause::None => (step.clause, step.verb),
                Some(step) => (handed, step.verb),
                None => (handed, op),
            });
        }
        match outer {
            // ON CONFLICT DO UPDATE
            Some((_, RowOp::Insert)) if op == RowOp::Update => Clause::Fails,
            Some((clause, _)) => clause,
            None => Clause::None,
        }
    }

    /// The innermost program stands at `depth` instead, and so do those around it where that explains it.
    fn move_innermost(&mut self, depth: usize) {
        let top = self.open.len() - 1;
        let uncertain = |&at: &usize| self.at(at).is_some_and(|frame| !frame.certain);
        let explains = |&at: &usize| {
            self.at(at)
                .is_some_and(|frame| at + frame.ended.len() >= at + depth - top)
        };
        let outermost = match depth > top {
            true => (1..=top).rev().take_while(uncertain).find(explains),
            false => None,
        };
        let from = outermost.unwrap_or(top);
        let moved = self.open.split_off(from);
        let first = moved.first().copied().unwrap_or(0);
        let Some(frame) = self.frames.get_mut(first) else {
            return;
        };
        let (ended, parent) = (std::mem::take(&mut frame.ended), frame.parent);
        if let Some(parent) = self.frames.get_mut(parent) {
            parent.pending.retain(|&pending| pending != first);
        }
        self.open.extend(ended);
        self.resize(from + depth - top);
        for id in moved {
            self.open_again(id);
        }
    }

    /// Opens program `id` below the innermost open one. Parents come first, so it takes a new number.
    fn open_again(&mut self, id: usize) {
        let parent = self.open.last().copied().unwrap_or(0);
        let Some(frame) = self.frames.get_mut(id) else {
            return;
        };
        let again = Frame {
            trigger: frame.trigger.clone(),
            is_action: frame.is_action,
            redone: frame.redone,
            by_replace: false,
            step: frame.step.take(),
            position: frame.position,
            parent,
            certain: false,
            ended: std::mem::take(&mut frame.ended),
            pending: std::mem::take(&mut frame.pending),
        };
        self.frames.push(again);
        let number = self.frames.len() - 1;
        self.open.push(number);
        self.note_cause();
        let waiting = self.frames.get_mut(parent);
        match waiting.and_then(|parent| parent.pending.iter_mut().find(|pending| **pending == id)) {
            Some(pending) => *pending = number,
            None => self.await_row(),
        }
    }

    /// The depth of each program's changes for whoever replays.
    fn levels(&self) -> Vec<i64> {
        let mut levels: Vec<i64> = Vec::with_capacity(self.frames.len());
        for frame in &self.frames {
            let outer = levels.get(frame.parent).map_or(0, |&outer| outer.max(0));
            levels.push(match frame.is_action {
                true => ACTION_DEPTH,
                false if self.recursive && self.only_recursive(frame, &levels) => 0,
                false => outer + i64::from(frame.redone),
            });
        }
        levels
    }

    /// True if a program would not have run without recursive triggers, which the other side does not have: it is inside
    /// itself, or a REPLACE has started it, in what is redone there.
    fn only_recursive(&self, frame: &Frame, levels: &[i64]) -> bool {
        let mut outer = frame.parent;
        let mut inside = false;
        while levels.get(outer).is_some_and(|level| *level > 0) {
            let Some(around) = self.frames.get(outer) else {
                break;
            };
            let same = matches!((&around.trigger, &frame.trigger), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
            inside |= same || frame.by_replace;
            outer = around.parent;
        }
        inside
    }

    /// The maker that each program is.
    fn names(&self) -> Vec<Option<Option<Arc<str>>>> {
        let mut known: HashMap<*const Trigger, Arc<str>> = HashMap::new();
        let mut names = Vec::with_capacity(self.frames.len());
        for (i, frame) in self.frames.iter().enumerate() {
            names.push(match &frame.trigger {
                _ if i == 0 => Some(None),
                Some(trigger) => {
                    let name = known.entry(Arc::as_ptr(trigger));
                    Some(Some(Arc::clone(
                        name.or_insert_with(|| trigger.name.as_str().into()),
                    )))
                }
                None => None,
            });
        }
        names
    }
}
