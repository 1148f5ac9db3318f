/* load LIBRARY SYMBOL...: loads the library as bindings do and looks every symbol up. */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv) {
    void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
    int missing = 0;
    if (library == NULL) {
        fprintf(stderr, "%s\n", argc > 1 ? dlerror() : "no library");
        return 1;
    }
    for (int i = 2; i < argc; i++) {
        if (dlsym(library, argv[i]) == NULL) {
            fprintf(stderr, "%s is missing\n", argv[i]);
            missing++;
        }
    }
    return missing == 0 ? 0 : 1;
}
