;; Prints for ever. The host must drop what is too much, and stop it when its time is
;; up: a timeout.
;;
;; expected: timeout: ran past its timeout of 300ms
;; given: timeout = "300ms"
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
  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $p (sub resource)))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:io/error@0.2.0" (instance $io-error (export "error" (type (sub resource)))))
  (alias export $io-error "error" (type $io-error-type))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $o (sub resource)))
    (export "input-stream" (type $i (sub resource)))
    (alias outer 1 $io-error-type (type $e'))
    (export "error" (type $e (eq $e')))
    (alias outer 1 $pollable (type $p'))
    (export "pollable" (type $p (eq $p')))
    (type $stream-error' (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $stream-error')))
    (export "[method]input-stream.blocking-read" (func
      (param "self" (borrow $i)) (param "len" u64)
      (result (result (list u8) (error $stream-error)))))
    (export "[method]output-stream.subscribe" (func
      (param "self" (borrow $o)) (result (own $p))))
    (export "[method]output-stream.write" (func
      (param "self" (borrow $o)) (param "contents" (list u8))
      (result (result (error $stream-error)))))
    (export "[method]output-stream.blocking-write-and-flush" (func
      (param "self" (borrow $o)) (param "contents" (list u8))
      (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $output-stream))
  (alias export $streams "input-stream" (type $input-stream))
  (import "wasi:cli/stdin@0.2.0" (instance $stdin
    (alias outer 1 $input-stream (type $i'))
    (export "input-stream" (type $i (eq $i')))
    (export "get-stdin" (func (result (own $i))))))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $output-stream (type $o'))
    (export "output-stream" (type $o (eq $o')))
    (export "get-stdout" (func (result (own $o))))))
  (import "wasi:cli/stderr@0.2.0" (instance $stderr
    (alias outer 1 $output-stream (type $o'))
    (export "output-stream" (type $o (eq $o')))
    (export "get-stderr" (func (result (own $o))))))
  (core module $Libc
    (memory (export "memory") 1)
    ;; Arguments are never read, so they may all lie in one place.
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $libc (instantiate $Libc))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory (core memory $libc "memory")) (realloc (core func $libc "cabi_realloc"))))
  (core func $stdout (canon lower (func $stdout "get-stdout")))
  (core module $Main
    (import "libc" "memory" (memory 1))
    (import "wasi" "write" (func $write (param i32 i32 i32 i32)))
    (import "wasi" "stdout" (func $stdout (result i32)))
    (data (i32.const 64) "x\0a")
    (func (export "handle") (param i32 i32 i32 i32 i32 i32 i32) (result i32)
      (local.set 0 (call $stdout))
      (loop $again
        (call $write (local.get 0) (i32.const 64) (i32.const 2) (i32.const 48))
        (br $again))
      (i32.const 0)))
  (core instance $main (instantiate $Main (with "libc" (instance $libc)) (with "wasi" (instance
    (export "write" (func $write)) (export "stdout" (func $stdout))))))
  (func $handle (param "message" $message) (result $answer)
    (canon lift (core func $main "handle")
      (memory (core memory $libc "memory")) (realloc (core func $libc "cabi_realloc"))))
  (instance $handler (export "handle" (func $handle)))
  (export "tidegate:plugin/handler@0.1.0" (instance $handler)))
