/* A fault on purpose: proves that the sanitizer of the contract tests is on. */
#include <stdio.h>
#include <stdlib.h>

#include <turso.h>

int main(void) {
    volatile char *byte = malloc(1);
    free((void *)byte);
    printf("%s %d\n", turso_version(), *byte);
    return 0;
}
