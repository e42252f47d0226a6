//go:build cuda && cgo && linux && amd64

#include <dlfcn.h>
#include <stdio.h>
#include "symbols.h"

enum { count = sizeof hypnos_shim_names / sizeof *hypnos_shim_names };

/* What the trampolines jump to: not_loaded from before any Go code runs, the driver's functions after hypnos_shim_load. */
__attribute__((visibility("hidden"))) void* hypnos_shim_slots[count];

static int not_loaded(void) { return 3; }  /* CUDA_ERROR_NOT_INITIALIZED */
static int not_found(void) { return 500; } /* CUDA_ERROR_NOT_FOUND: the driver is too old to have the function */

__attribute__((constructor)) static void fill(void) {
  for (int i = 0; i < count; i++) hypnos_shim_slots[i] = (void*)not_loaded;
}

/* cu's init function calls cuInit before main and ends the process when it fails. */
__attribute__((visibility("hidden"))) int cuInit(unsigned flags) {
  (void)flags;
  return 0;
}

/* hypnos_shim_load opens the library and calls its cuInit. Returns -1 and a message when it cannot be opened, or cuInit's code. */
int hypnos_shim_load(const char* library, char* message, int size) {
  void* handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (!handle) {
    snprintf(message, size, "%s", dlerror());
    return -1;
  }
  int (*init)(unsigned) = (int (*)(unsigned))dlsym(handle, "cuInit");
  if (!init) {
    snprintf(message, size, "%s has no cuInit", library);
    return -1;
  }
  for (int i = 0; i < count; i++) {
    void* f = dlsym(handle, hypnos_shim_names[i]);
    hypnos_shim_slots[i] = f ? f : (void*)not_found;
  }
  return init(0);
}
