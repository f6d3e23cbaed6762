;; An async handler that answers with nothing, except: at attempt 12 it never returns to its
;; loop, at 13 it traps, at 14 it waits for what never comes, at 15 it answers once this
;; instance has had another message, at 16 it makes sets without end.
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
  (core module $Memory
    (memory (export "memory") 4)
    (global $top (mut i32) (i32.const 65536))
    (func (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and
        (i32.sub (i32.add (global.get $top) (local.get $align)) (i32.const 1))
        (i32.sub (i32.const 0) (local.get $align))))
      (global.set $top (i32.add (local.get $at) (local.get $size)))
      (local.get $at)))
  (core instance $memory (instantiate $Memory))
  (core func $new-set (canon waitable-set.new))
  (core func $return (canon task.return (result $answer) (memory (core memory $memory "memory"))))
  (core module $Main
    (import "host" "new-set" (func $new-set (result i32)))
    (import "host" "return" (func $return (param i32 i32 i32 i32 i64)))
    (global $come (mut i32) (i32.const 0))
    (func $answer (result i32)
      (call $return (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0))
      (i32.const 0)) ;; exit
    (func (export "handle") (param i32 i32 i32 i32) (param $attempt i32) (param i32 i32) (result i32)
      (global.set $come (i32.add (global.get $come) (i32.const 1)))
      (if (i32.eq (local.get $attempt) (i32.const 12)) (then (loop $spin (br $spin))))
      (if (i32.eq (local.get $attempt) (i32.const 13)) (then (unreachable)))
      (if (i32.eq (local.get $attempt) (i32.const 14)) (then
        (return (i32.or (i32.const 2) (i32.shl (call $new-set) (i32.const 4)))))) ;; wait
      (if (i32.eq (local.get $attempt) (i32.const 16)) (then
        (loop $hoard (drop (call $new-set)) (br $hoard))))
      (if (i32.eq (local.get $attempt) (i32.const 15)) (then
        (return (i32.const 1)))) ;; yield
      (call $answer))
    (func (export "callback") (param i32 i32 i32) (result i32)
      (if (i32.lt_u (global.get $come) (i32.const 2)) (then (return (i32.const 1))))
      (call $answer)))
  (core instance $main (instantiate $Main (with "host" (instance
    (export "new-set" (func $new-set))
    (export "return" (func $return))))))
  (type $handle' (func async (param "message" $message) (result $answer)))
  (func $handle (type $handle')
    (canon lift (core func $main "handle") async (callback (core func $main "callback"))
      (memory (core memory $memory "memory")) (realloc (core func $memory "cabi_realloc"))))
  (instance $handler (export "handle" (func $handle)))
  (export "tidegate:plugin/async-handler@0.1.0" (instance $handler)))
