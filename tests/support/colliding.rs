//! Tables and random changes of their rows that often collide.

pub const COLLIDING: &str = "CREATE TABLE k (id INTEGER PRIMARY KEY, u UNIQUE, v);
    CREATE TABLE l (u UNIQUE, v);
    CREATE TABLE bag (a, b);
    CREATE TABLE c (id INTEGER PRIMARY KEY, k REFERENCES k(id) ON DELETE CASCADE, v);
    CREATE TABLE w (a, b, v, PRIMARY KEY (a, b)) WITHOUT ROWID;
    CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, what);
    CREATE TABLE blog (what);
    CREATE TRIGGER tr AFTER INSERT ON c BEGIN INSERT INTO log(what) VALUES (new.id); INSERT INTO blog VALUES (new.id); END;";

/// Xorshift: what it gives depends on the seed only.
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }

    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// A change of a few rows of the tables of [`COLLIDING`].
    pub fn row_change(&mut self) -> String {
        let (id, u, v) = (self.below(6), self.below(8), self.below(100));
        match self.below(19) {
            0 | 1 => format!("INSERT OR IGNORE INTO k(id,u,v) VALUES ({id}, {u}, {v})"),
            2 => format!("UPDATE OR IGNORE k SET u = {u} WHERE id = {id}"),
            3 => format!("UPDATE k SET v = {v} WHERE id = {id}"),
            4 => format!("DELETE FROM k WHERE id = {id}"),
            5 => format!("UPDATE OR IGNORE k SET id = {id} WHERE u = {u}"),
            6 => format!("INSERT OR IGNORE INTO l VALUES ({u}, {v})"),
            7 => format!("UPDATE OR IGNORE l SET u = {u}, v = v + 1 WHERE rowid = {id}"),
            8 => format!("DELETE FROM l WHERE u = {u}"),
            9 => format!(
                "INSERT OR IGNORE INTO c(id,k,v) VALUES ({id}, {}, {v})",
                self.below(6)
            ),
            10 => format!("DELETE FROM c WHERE id = {id}"),
            11 => format!("REPLACE INTO k(id,u,v) VALUES ({id}, {u}, {v})"),
            12 => format!(
                "INSERT INTO w VALUES ({id}, {}, {v}) ON CONFLICT DO UPDATE SET v = excluded.v",
                u % 2
            ),
            13 => format!("INSERT INTO bag(a,b) VALUES ({id}, {v})"),
            14 => format!("UPDATE bag SET b = {v} WHERE a = {id}"),
            15 => format!("DELETE FROM bag WHERE a = {id}"),
            16 => format!("UPDATE blog SET what = what + 100 WHERE what = {id}"),
            17 => format!("DELETE FROM blog WHERE what = {id}"),
            _ => format!("DELETE FROM w WHERE a = {id}"),
        }
    }
}
