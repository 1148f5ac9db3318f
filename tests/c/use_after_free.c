/* A fault on purpose: proves that the sanitizer of the contract tests is on. */
#include <stdio.h>
#include <stdlib.h>

#include <turso.h>

/* Volatile, so that the compiler does not see through it and refuse the fault. */
static char *volatile hidden;

int main(void) {
    hidden = malloc(1);
    free(hidden);
    printf("%s %d\n", turso_version(), *hidden);
    return 0;
}
