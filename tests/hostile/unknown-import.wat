;; Imports what no handler can be granted, what does not exist yet, and what nobody
;; has heard of. The host must refuse it and name all three.
;;
;; expected: refused: imports wasi:tls/types@0.2.0, which no handler can be granted
(component
  (import "tidegate:plugin/types@0.1.0" (instance $types
    (type $field' (record (field "name" string) (field "value" (list u8))))
    (export "field" (type $field (eq $field')))
    (type $message' (record
      (field "id" string) (field "stream" string) (field "attempt" u32)
      (field "fields" (list $field))))
    (export "message" (type (eq $message')))
    (type $entry' (record
      (field "stream" string) (field "fields" (list $field))
      (field "delay-ms" (option u64))))
    (export "entry" (type $entry (eq $entry')))
    (type $notice' (record (field "channel" string) (field "payload" (list u8))))
    (export "notice" (type $notice (eq $notice')))
    (type $output' (variant (case "append" $entry) (case "publish" $notice)))
    (export "output" (type (eq $output')))
    (type $pause' (record (field "reason" string) (field "delay-ms" u64)))
    (export "pause" (type $pause (eq $pause')))
    (type $failure' (variant
      (case "retry" string) (case "retry-after" $pause) (case "reject" string)))
    (export "failure" (type (eq $failure')))))
  (alias export $types "message" (type $message))
  (alias export $types "output" (type $output))
  (alias export $types "failure" (type $failure))
  (type $answer (result (list $output) (error $failure)))
  (import "wasi:tls/types@0.2.0" (instance))
  (import "tidegate:plugin/services@0.1.0" (instance))
  (import "acme:rockets/launch@1.0.0" (instance))
  (core module $Main
    (memory (export "memory") 1)
    ;; Arguments are never read, so they may all lie in one place.
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "handle") (param i32 i32 i32 i32 i32 i32 i32) (result i32) (i32.const 0)))
  (core instance $main (instantiate $Main))
  (func $handle (param "message" $message) (result $answer)
    (canon lift (core func $main "handle")
      (memory (core memory $main "memory")) (realloc (core func $main "cabi_realloc"))))
  (instance $handler (export "handle" (func $handle)))
  (export "tidegate:plugin/handler@0.1.0" (instance $handler)))
