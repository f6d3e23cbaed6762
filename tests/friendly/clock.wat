;; A plain handler that asks the clock of WASI 0.3, and answers with what it was given.
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
  (import "wasi:clocks/monotonic-clock@0.3.0" (instance $clock (export "now" (func (result u64)))))
  (core func $now (canon lower (func $clock "now")))
  (core module $Main
    (import "host" "now" (func $now (result i64)))
    (memory (export "memory") 4)
    (global $top (mut i32) (i32.const 65536))
    (func (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and
        (i32.sub (i32.add (global.get $top) (local.get $align)) (i32.const 1))
        (i32.sub (i32.const 0) (local.get $align))))
      (global.set $top (i32.add (local.get $at) (local.get $size)))
      (local.get $at))
    (func (export "handle") (param i32 i32) (param $stream i32) (param $stream-len i32)
        (param i32) (param $fields i32) (param $fields-len i32) (result i32)
      (if (i64.eqz (call $now)) (then (unreachable)))
      (i32.store (i32.const 8) (i32.const 64)) ;; ok: a list at 64 of one
      (i32.store (i32.const 12) (i32.const 1))
      (i32.store (i32.const 72) (local.get $stream)) ;; append
      (i32.store (i32.const 76) (local.get $stream-len))
      (i32.store (i32.const 80) (local.get $fields))
      (i32.store (i32.const 84) (local.get $fields-len))
      ;; What is allocated for the next call may overwrite this message.
      (global.set $top (i32.const 65536))
      (i32.const 0)))
  (core instance $main (instantiate $Main (with "host" (instance (export "now" (func $now))))))
  (func $handle (param "message" $message) (result $answer)
    (canon lift (core func $main "handle")
      (memory (core memory $main "memory")) (realloc (core func $main "cabi_realloc"))))
  (instance $handler (export "handle" (func $handle)))
  (export "tidegate:plugin/handler@0.1.0" (instance $handler)))
