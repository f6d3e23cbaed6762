;; Begins as a component does and ends within a section. The host must say that it is
;; cut short.
;;
;; expected: refused: is cut short: build or copy it again
(component binary "\00asm\0d\00\01\00" "\01\80\80\04\00asm")
