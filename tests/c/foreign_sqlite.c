/* Stands for another SQLite in the same program: linked beside the static library, it must stay unused and unharmed. */
#include <stdlib.h>

int sqlite3_open(const char *filename, void **database);
int sqlite3_open_v2(const char *filename, void **database, int flags, const char *vfs);
int sqlite3_initialize(void);

int sqlite3_open(const char *filename, void **database) {
    (void)filename;
    (void)database;
    abort();
}

int sqlite3_open_v2(const char *filename, void **database, int flags, const char *vfs) {
    (void)flags;
    (void)vfs;
    return sqlite3_open(filename, database);
}

int sqlite3_initialize(void) {
    abort();
}
