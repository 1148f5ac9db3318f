/* Does what it must not, as its argument says: so that c_tests.sh sees that the sanitizers and valgrind would see it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    volatile size_t past = 8 + (size_t)argc;
    volatile int largest = 0x7fffffff;
    char *memory = malloc(8);
    char *volatile kept = memory;
    if (memory == NULL)
        return 2;
    memset(memory, argc, 8);
    if (strcmp(what, "overflow") == 0) {
        printf("%d\n", memory[past]);
    } else if (strcmp(what, "use after free") == 0) {
        free(memory);
        printf("%d\n", kept[argc]);
        return 0;
    } else if (strcmp(what, "leak") == 0) {
        kept = NULL;
        return 0;
    } else if (strcmp(what, "arithmetic") == 0) {
        printf("%d\n", largest + argc);
    }
    free(memory);
    return 0;
}
