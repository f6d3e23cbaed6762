;; Is a component that exports nothing. The host must refuse it, and say what it
;; expected.
;;
;; expected: refused: exports no handler:
(component
  (core module $Main)
  (core instance $main (instantiate $Main)))
