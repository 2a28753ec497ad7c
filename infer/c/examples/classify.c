/* Classifies one image of zeros: classify MODEL.
   cc classify.c -I ../include -L TARGET -lsr2_infer_c -o classify */
#include <stdio.h>
#include <stdlib.h>

#include "sr2_infer.h"

int main(int argc, char **argv) {
  char error[512];
  if (argc != 2) {
    fprintf(stderr, "usage: classify MODEL\n");
    return 2;
  }
  struct sr2_engine *engine = sr2_engine_load(argv[1], 1, 1, error, sizeof error);
  if (engine == NULL) {
    fprintf(stderr, "%s\n", error);
    return 1;
  }
  size_t shape[3];
  sr2_engine_input_shape(engine, shape);
  size_t classes = sr2_engine_output_len(engine);
  float *image = calloc(sr2_engine_input_len(engine), sizeof *image);
  float *logits = calloc(classes, sizeof *logits);
  if (image == NULL || logits == NULL || sr2_engine_run(engine, image, 1, logits, error, sizeof error) != 0) {
    fprintf(stderr, "%s\n", image == NULL || logits == NULL ? "out of memory" : error);
    return 1;
  }
  size_t best = 0;
  for (size_t k = 1; k < classes; k++)
    if (logits[k] > logits[best]) best = k;
  printf("image %zux%zux%zu, class %zu of %zu, logit %.6f\n", shape[0], shape[1], shape[2], best, classes, logits[best]);
  free(image);
  free(logits);
  sr2_engine_free(engine);
  return 0;
}
