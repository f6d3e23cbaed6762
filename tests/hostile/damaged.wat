;; Begins as a component does and goes on as nothing does. The host must refuse it.
;;
;; expected: refused: cannot be compiled: failed to parse WebAssembly module: malformed section id
(component binary "\00asm\0d\00\01\00" "\ee\05hello")
