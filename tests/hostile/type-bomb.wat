;; Imports a function of a type that doubles thrice with every line: eight thousand
;; million values. The host must refuse it before it counts them.
;;
;; expected: refused: cannot be compiled: failed to parse WebAssembly module: effective type size exceeds the limit of 1000000
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
  (type $t0 (tuple u8 u8 u8 u8 u8 u8 u8 u8))
  (type $t1 (tuple $t0 $t0 $t0 $t0 $t0 $t0 $t0 $t0))
  (type $t2 (tuple $t1 $t1 $t1 $t1 $t1 $t1 $t1 $t1))
  (type $t3 (tuple $t2 $t2 $t2 $t2 $t2 $t2 $t2 $t2))
  (type $t4 (tuple $t3 $t3 $t3 $t3 $t3 $t3 $t3 $t3))
  (type $t5 (tuple $t4 $t4 $t4 $t4 $t4 $t4 $t4 $t4))
  (type $t6 (tuple $t5 $t5 $t5 $t5 $t5 $t5 $t5 $t5))
  (type $t7 (tuple $t6 $t6 $t6 $t6 $t6 $t6 $t6 $t6))
  (type $t8 (tuple $t7 $t7 $t7 $t7 $t7 $t7 $t7 $t7))
  (type $t9 (tuple $t8 $t8 $t8 $t8 $t8 $t8 $t8 $t8))
  (type $t10 (tuple $t9 $t9 $t9 $t9 $t9 $t9 $t9 $t9))
  (type $t11 (tuple $t10 $t10 $t10 $t10 $t10 $t10 $t10 $t10))
  (import "bomb" (func (param "all" $t11)))
  (core module $Main
    (memory (export "memory") 1)
    ;; Arguments are never read, so they may all lie in one place.
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "handle") (param i32 i32 i32 i32 i32 i32 i32) (result i32)
      (i32.const 0)))
  (core instance $main (instantiate $Main))
  (func $handle (param "message" $message) (result $answer)
    (canon lift (core func $main "handle")
      (memory (core memory $main "memory")) (realloc (core func $main "cabi_realloc"))))
  (instance $handler (export "handle" (func $handle)))
  (export "tidegate:plugin/handler@0.1.0" (instance $handler)))
