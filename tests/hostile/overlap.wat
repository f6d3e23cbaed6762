;; Answers with a thousand entries that all have the same fifty thousand fields: small
;; in its own memory, gigabytes in the host's. The host must stop copying long before
;; that: a limit.
;;
;; expected: limit: answered with more than its limit on outputs allows
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
  (core module $Main
    (memory (export "memory") 32)
    ;; Arguments are never read, so they may all lie in one place.
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (data (i32.const 8) "\00\00\10\00\e8\03\00\00") ;; ok: a list at 0x100000 of 1000
    (func (export "handle") (param i32 i32 i32 i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.const 0x100000))
      (loop $again
        (i32.store offset=16 (local.get $at) (i32.const 2048))  ;; append: fields at 2048
        (i32.store offset=20 (local.get $at) (i32.const 50000)) ;; of 50000
        (local.set $at (i32.add (local.get $at) (i32.const 40)))
        (br_if $again (i32.lt_u (local.get $at) (i32.const 0x109c40))))
      (i32.const 0)))
  (core instance $main (instantiate $Main))
  (func $handle (param "message" $message) (result $answer)
    (canon lift (core func $main "handle")
      (memory (core memory $main "memory")) (realloc (core func $main "cabi_realloc"))))
  (instance $handler (export "handle" (func $handle)))
  (export "tidegate:plugin/handler@0.1.0" (instance $handler)))
