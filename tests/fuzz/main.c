/* libFuzzer's program around an embedded Python, started once. MOS_FUZZ names the target: a function of bytes in targets.py,
   or a module quick_<name>, which runs without Python. The way in is `one_input` in the __pyx_capi__ of a Cython module. */
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int (*entry)(const uint8_t *, size_t);

static void fail(const char *what)
{
    fprintf(stderr, "fuzzer: %s\n", what);
    if (PyErr_Occurred())
        PyErr_Print();
    exit(1);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *target = getenv("MOS_FUZZ");
    char module[64] = "fuzz.entry";
    PyObject *imported, *table, *capsule;

    (void)argc, (void)argv;
    if (!target)
        fail("MOS_FUZZ does not name a target");
    if (!strncmp(target, "quick_", 6))
        snprintf(module, sizeof(module), "fuzz.%s", target);
    Py_InitializeEx(0);
    imported = PyImport_ImportModule(module);
    table = imported ? PyObject_GetAttrString(imported, "__pyx_capi__") : NULL;
    capsule = table ? PyMapping_GetItemString(table, "one_input") : NULL;
    if (!capsule || !(entry = (int (*)(const uint8_t *, size_t))PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))))
        fail(target);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    return entry(data, n);
}
