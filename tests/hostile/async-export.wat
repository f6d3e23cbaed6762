;; Exports the handler of many calls at once. The host must refuse it as not available
;; in this version.
;;
;; expected: refused: exports tidegate:plugin/async-handler, which is not available in this version
(component
  (instance $handler)
  (export "tidegate:plugin/async-handler@0.1.0" (instance $handler)))
