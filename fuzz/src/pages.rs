//! The side files of the base, and the pages that go into the main file.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use rusqlite::Connection;
use turso_sync::pages::{
    ApplyContext, Base, BaseHealth, BaseState, ChangesWriter, PAGE_SIZE, Page, PageStore,
};

use super::input::Input;

const BUSY: Duration = Duration::from_millis(10);
const SLOTS: [usize; 2] = [512, 1024];
const SLOT: usize = 112;
const ENTRIES: usize = 4096;
const ENTRY: usize = 16 + PAGE_SIZE;

/// A folder in memory, where there is such a place.
pub fn folder() -> tempfile::TempDir {
    match Path::new("/dev/shm").is_dir() {
        true => tempfile::tempdir_in("/dev/shm"),
        false => tempfile::tempdir(),
    }
    .expect("a temporary folder")
}

/// A small database in WAL mode, as a server has it.
pub fn image() -> &'static [u8] {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let dir = folder();
        let path = dir.path().join("image.db");
        let conn = Connection::open(&path).expect("a database");
        conn.execute_batch(
            "CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c); CREATE INDEX i ON t (b);
             INSERT INTO t VALUES (1, 'one', 1.5), (2, 'two', x'0102'), (3, NULL, NULL);",
        )
        .expect("a schema");
        drop(conn);
        let mut image = std::fs::read(&path).expect("a file");
        image[18..20].fill(2);
        image
    })
}

/// A base in its own folder, with something of its own in the log.
struct Scene {
    _dir: tempfile::TempDir,
    main: PathBuf,
    revert: PathBuf,
    store: PageStore,
    state: BaseState,
}

impl Scene {
    fn new() -> Self {
        let dir = folder();
        let (main, revert) = (dir.path().join("m.db"), dir.path().join("m.db-wal-revert"));
        std::fs::write(&main, image()).expect("a main file");
        let state = BaseState {
            epoch: 1,
            base_pages: (image().len() / PAGE_SIZE) as u32,
        };
        let store = PageStore::new(&main, &revert);
        store.initialize(&state).expect("a base");
        let scene = Scene {
            _dir: dir,
            main,
            revert,
            store,
            state,
        };
        let conn = scene.connection();
        conn.execute_batch("CREATE TABLE mine (x); INSERT INTO mine VALUES (1)")
            .expect("a local write");
        scene
    }

    /// A connection that leaves the log where it is.
    fn connection(&self) -> Connection {
        let conn = Connection::open(&self.main).expect("the main file");
        conn.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .expect("an option");
        conn.execute_batch("PRAGMA wal_autocheckpoint = 0")
            .expect("a pragma");
        conn
    }

    fn mine(&self) -> rusqlite::Result<i64> {
        self.connection()
            .query_row("SELECT sum(x) FROM mine", [], |row| row.get(0))
    }

    /// Applies what `fill` puts into a download; false if that is refused.
    fn apply(&self, db_pages: u32, fill: impl FnOnce(&mut ChangesWriter) -> bool) -> bool {
        let mut writer = ChangesWriter::create(&self.main).expect("a download");
        if !fill(&mut writer) {
            return false;
        }
        let Ok(changes) = writer.finish(db_pages) else {
            return false;
        };
        let base = Base::Known(self.state);
        self.store.apply(base, &changes, BUSY, prepare).is_ok()
    }
}

/// What an engine does on the new base, in short.
fn prepare(context: &ApplyContext<'_>) -> turso_sync::error::Result<()> {
    let rows: i64 = context
        .current
        .query_row("SELECT count(*) FROM mine", [], |row| row.get(0))?;
    context.scratch.execute_batch(
        "DROP TABLE IF EXISTS mine; CREATE TABLE mine (x); INSERT OR REPLACE INTO t VALUES (7, 'seven', 7)",
    )?;
    context.scratch.execute("INSERT INTO mine VALUES (?1)", [rows])?;
    Ok(())
}

/// `<db>-wal-revert`.
pub fn revert_file(data: &[u8]) {
    let scene = Scene::new();
    let mut input = Input::new(data);
    let flags = input.u8();
    let mut file = std::fs::read(&scene.revert).expect("a revert file");
    match flags & 1 {
        0 => file = input.rest().to_vec(),
        _ => edit(&mut file, &mut input, flags & 2 == 0),
    }
    std::fs::write(&scene.revert, &file).expect("a revert file");
    // As after a restart: nothing is known about the file.
    let store = PageStore::new(&scene.main, &scene.revert);
    let state = BaseState {
        epoch: i64::from(flags >> 2 & 3),
        base_pages: scene.state.base_pages,
    };
    if let Ok(BaseHealth::Intact) = store.recover(&state) {
        for page_no in 1..=state.base_pages {
            let _ = store.base_image(&state, page_no);
        }
        let _ = store.with_base(&state, |conn| {
            Ok(conn.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))?)
        });
        let _ = store.checkpoint(&state, BUSY);
    } else {
        let _ = store.checkpoint_without_base(BUSY);
    }
    // The replica's own rows do not depend on that file.
    assert_eq!(scene.mine(), Ok(1));
    store.initialize(&state).expect("a new base replaces any file");
}

/// Changes slots and entries, and makes their checksums right again if `fix` is true.
fn edit(file: &mut Vec<u8>, input: &mut Input<'_>, fix: bool) {
    while !input.is_empty() {
        match input.u8() % 4 {
            0 => {
                let at = SLOTS[usize::from(input.u8() & 1)] + usize::from(input.u8() % 12) * 8;
                put(file, at, &input.number().to_le_bytes());
            }
            1 => {
                let mut entry = vec![input.u8(); ENTRY];
                entry[..4].copy_from_slice(&(input.number() as u32).to_le_bytes());
                entry[4..12].copy_from_slice(&input.number().to_le_bytes());
                let base = image();
                if input.one_in(2) {
                    let page = usize::from(input.u8()) % (base.len() / PAGE_SIZE) * PAGE_SIZE;
                    entry[16..].copy_from_slice(&base[page..page + PAGE_SIZE]);
                }
                let crc = crc32c::crc32c_append(crc32c::crc32c(&entry[..12]), &entry[16..]);
                entry[12..16].copy_from_slice(&crc.to_le_bytes());
                file.extend_from_slice(&entry);
            }
            2 => {
                let keep = usize::from(input.u16());
                file.truncate(keep.max(ENTRIES));
            }
            _ => {
                let at = usize::from(input.u16());
                put(file, at, input.bytes());
            }
        }
    }
    for at in SLOTS {
        if let Some(slot) = file.get_mut(at..at + SLOT).filter(|_| fix) {
            let crc = crc32c::crc32c(&slot[..SLOT - 4]).to_le_bytes();
            slot[SLOT - 4..].copy_from_slice(&crc);
        }
    }
}

fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    for (place, byte) in file.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
}

/// Downloaded pages: which ones there are, what is in them, and what they become below local changes.
pub fn changes_file(data: &[u8]) {
    let scene = Scene::new();
    let mut input = Input::new(data);
    let db_pages = match input.u8() {
        0..=127 => scene.state.base_pages,
        n => u32::from(n - 128),
    };
    let applied = scene.apply(db_pages, |writer| {
        while !input.is_empty() {
            let page_no = u32::from(input.u8() % 16);
            let mut page: Page = [input.u8(); PAGE_SIZE];
            let at = (page_no as usize).saturating_sub(1) * PAGE_SIZE;
            if let Some(good) = image().get(at..at + PAGE_SIZE) {
                page.copy_from_slice(good);
            }
            for _ in 0..input.u8() % 8 {
                let at = usize::from(input.u16()) % PAGE_SIZE;
                put(&mut page, at, input.bytes());
            }
            if writer.page(page_no, &page).is_err() {
                return false;
            }
        }
        true
    });
    if !applied {
        // Nothing has changed, and other changes can be applied.
        assert_eq!(scene.mine(), Ok(1));
        assert!(scene.apply(scene.state.base_pages, |_| true));
    }
    let conn = scene.connection();
    let _ = conn.query_row("PRAGMA quick_check", [], |_| Ok(()));
    let _ = conn.execute_batch("UPDATE t SET c = 1; INSERT INTO t (b) VALUES ('x')");
}
