;; Exports the handler of many calls at once without its function. The host must refuse it.
;;
;; expected: refused: does not fit tidegate:plugin@0.1.0 in its function handle
(component
  (instance $handler)
  (export "tidegate:plugin/async-handler@0.1.0" (instance $handler)))
