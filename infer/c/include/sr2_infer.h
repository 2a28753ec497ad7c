/* The sparse engine of sr2-prune. Made from src/lib.rs by cbindgen; a test keeps both alike. */

#ifndef SR2_INFER_H
#define SR2_INFER_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

/*
 A network ready to run. One thread may use it at a time.
 */
typedef struct sr2_engine sr2_engine;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/*
 Loads a `.onnx`, `.srz` or `.csr.safetensors` file, a checkpoint, or an export folder, to run on `threads` threads, the
 caller's included, at most 1024, with batches of about `batch` images, at most 4096. Returns NULL on failure, and then
 writes why into `error`.

 # Safety
 `path` must be a C string in UTF-8; `error` must be NULL, or point to `error_len` writable bytes.
 */
struct sr2_engine *sr2_engine_load(const char *path,
                                   size_t threads,
                                   size_t batch,
                                   char *error,
                                   size_t error_len);

/*
 Number of values of one image, channels first.

 # Safety
 `engine` must come from `sr2_engine_load` and not be freed.
 */
size_t sr2_engine_input_len(const struct sr2_engine *engine);

/*
 Number of values answered for one image.

 # Safety
 As `sr2_engine_input_len`.
 */
size_t sr2_engine_output_len(const struct sr2_engine *engine);

/*
 Writes channels, height and width of one image into `shape`.

 # Safety
 As `sr2_engine_input_len`; `shape` must point to three writable values.
 */
void sr2_engine_input_shape(const struct sr2_engine *engine, size_t *shape);

/*
 Computes the outputs of `count` images, any number whatever the engine was loaded for. Returns 0, or 1 on failure,
 and then writes why into `error`.

 # Safety
 As `sr2_engine_input_len`, and no other thread may use the engine; `images` must point to `count` times
 `sr2_engine_input_len` values and `outputs` to `count` times `sr2_engine_output_len` writable ones, apart from each
 other; `error` must be NULL, or point to `error_len` writable bytes.
 */
int32_t sr2_engine_run(struct sr2_engine *engine,
                       const float *images,
                       size_t count,
                       float *outputs,
                       char *error,
                       size_t error_len);

/*
 Frees an engine; NULL is left alone.

 # Safety
 `engine` must be NULL, or come from `sr2_engine_load` and not be freed.
 */
void sr2_engine_free(struct sr2_engine *engine);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* SR2_INFER_H */
