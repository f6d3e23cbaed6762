;; Exports a handler, but one that takes nothing and answers nothing. The host must
;; refuse it as not of its contract.
;;
;; expected: refused: does not fit tidegate:plugin@0.1.0 in its function handle:
(component
  (core module $Main
    (memory (export "memory") 1)
    ;; Arguments are never read, so they may all lie in one place.
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "handle")))
  (core instance $main (instantiate $Main))
  (func $handle (canon lift (core func $main "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "tidegate:plugin/handler@0.1.0" (instance $handler)))
