// Counts the messages of each `sku`, over all hosts, and answers with the count.

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Made by `wit-bindgen c`.
#include "count.h"

typedef exports_tidegate_plugin_handler_message_t message_t;
typedef exports_tidegate_plugin_handler_list_output_t outputs_t;
typedef exports_tidegate_plugin_handler_failure_t failure_t;
typedef tidegate_plugin_types_field_t field_t;

static const field_t *find(const message_t *message, const char *name) {
    for (size_t i = 0; i < message->fields.len; i++) {
        const field_t *field = &message->fields.ptr[i];
        if (field->name.len == strlen(name) && memcmp(field->name.ptr, name, field->name.len) == 0)
            return field;
    }
    return NULL;
}

static void fail(failure_t *failure, uint8_t tag, const char *why) {
    failure->tag = tag;
    count_string_dup(&failure->val.retry, why); // All texts of a failure are at the same place.
}

// Adds one to a number in the store, in one step, and gives the sum.
static bool count(const field_t *sku, uint64_t *sum) {
    wasi_keyvalue_store_own_bucket_t bucket;
    wasi_keyvalue_store_error_t error;
    count_string_t all, key = {.ptr = sku->value.ptr, .len = sku->value.len};
    count_string_set(&all, ""); // The bucket with no name: the keys that the manifest's `keyvalue` grants.
    if (!wasi_keyvalue_store_open(&all, &bucket, &error)) {
        wasi_keyvalue_store_error_free(&error);
        return false;
    }
    bool counted = wasi_keyvalue_atomics_increment(wasi_keyvalue_store_borrow_bucket(bucket), &key, 1, sum, &error);
    if (!counted)
        wasi_keyvalue_store_error_free(&error);
    wasi_keyvalue_store_bucket_drop_own(bucket);
    return counted;
}

static void set(field_t *field, const char *name, const void *value, size_t len) {
    count_string_dup(&field->name, name);
    count_string_t copy;
    count_string_dup_n(&copy, value, len);
    field->value.ptr = copy.ptr;
    field->value.len = copy.len;
}

static void answer(outputs_t *outputs, const field_t *sku, uint64_t sum) {
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%" PRIu64, sum);
    outputs->len = 1;
    outputs->ptr = calloc(1, sizeof *outputs->ptr);
    outputs->ptr->tag = TIDEGATE_PLUGIN_TYPES_OUTPUT_APPEND;
    tidegate_plugin_types_entry_t *entry = &outputs->ptr->val.append;
    count_string_dup(&entry->stream, "counts");
    entry->fields.len = 2;
    entry->fields.ptr = calloc(2, sizeof *entry->fields.ptr);
    set(&entry->fields.ptr[0], "sku", sku->value.ptr, sku->value.len);
    set(&entry->fields.ptr[1], "count", digits, (size_t)length);
}

bool exports_tidegate_plugin_handler_handle(message_t *message, outputs_t *outputs, failure_t *failure) {
    uint64_t sum;
    bool handled = false;
    const field_t *sku = find(message, "sku");
    if (sku == NULL)
        fail(failure, TIDEGATE_PLUGIN_TYPES_FAILURE_REJECT, "the message has no field `sku`");
    else if (!count(sku, &sum))
        fail(failure, TIDEGATE_PLUGIN_TYPES_FAILURE_RETRY, "the store failed");
    else {
        answer(outputs, sku, sum);
        handled = true;
    }
    // The message is ours to free; the outputs and the failure are the host's.
    exports_tidegate_plugin_handler_message_free(message);
    return handled;
}
