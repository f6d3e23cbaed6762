;; Exports a handler of another version of the contract. The host must refuse it, and
;; name the version it speaks.
;;
;; expected: refused: exports tidegate:plugin/handler@0.2.0: this host speaks tidegate:plugin@0.1.0
(component
  (instance $handler)
  (export "tidegate:plugin/handler@0.2.0" (instance $handler)))
