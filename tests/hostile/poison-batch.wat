;; Takes many messages and traps when the attempt of one of them is the thirteenth.
;; Each of the others it answers with a notice of how many messages the call had. The
;; host must blame the one, and run the others.
;;
;; expected: done:
;; given: channels = ["*"]
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
    (memory (export "memory") 4)
    (global $top (mut i32) (i32.const 65536))
    (func (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and
        (i32.sub (i32.add (global.get $top) (local.get $align)) (i32.const 1))
        (i32.sub (i32.const 0) (local.get $align))))
      (global.set $top (i32.add (local.get $at) (local.get $size)))
      (local.get $at))
    (func (export "handle-batch") (param $messages i32) (param $count i32) (result i32)
      (local $n i32) (local $at i32)
      (i32.store (i32.const 0) (i32.const 16)) ;; a list at 16
      (i32.store (i32.const 4) (local.get $count))
      (i32.store (i32.const 8) (local.get $count)) ;; the payload of every notice
      (i32.store (i32.const 60000) (i32.const 1)) ;; the one output of every answer:
      (i32.store (i32.const 60016) (i32.const 8)) ;; publish, nowhere, four bytes at 8
      (i32.store (i32.const 60020) (i32.const 4))
      (local.set $at (i32.const 16))
      (loop $next
        (if (i32.eq (i32.load offset=16 (local.get $messages)) (i32.const 13)) (then (unreachable)))
        (i32.store offset=8 (local.get $at) (i32.const 60000))
        (i32.store offset=12 (local.get $at) (i32.const 1))
        (local.set $messages (i32.add (local.get $messages) (i32.const 28)))
        (local.set $at (i32.add (local.get $at) (i32.const 32)))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $next (i32.lt_u (local.get $n) (local.get $count))))
      (global.set $top (i32.const 65536))
      (i32.const 0)))
  (core instance $main (instantiate $Main))
  (func $handle-batch (param "messages" (list $message)) (result (list $answer))
    (canon lift (core func $main "handle-batch")
      (memory (core memory $main "memory")) (realloc (core func $main "cabi_realloc"))))
  (instance $batch-handler (export "handle-batch" (func $handle-batch)))
  (export "tidegate:plugin/batch-handler@0.1.0" (instance $batch-handler)))
