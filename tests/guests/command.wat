;; A command that prints "hello\n" through wasi:io, then does what BEHAVIOUR says (0 ends well, 1 ends with an error).
(component
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $e))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "error" (type $e2 (eq $e)))
    (export "output-stream" (type $out (sub resource)))
    (type $failure (variant (case "last-operation-failed" (own $e2)) (case "closed")))
    (export "stream-error" (type $failed (eq $failure)))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $out)) (param "contents" (list u8)) (result (result (error $failed)))))))
  (alias export $streams "output-stream" (type $out))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (export "output-stream" (type $o (eq $out))) (export "get-stdout" (func (result (own $o))))))
  EXTRA
  (alias export $stdout "get-stdout" (func $get))
  (alias export $streams "[method]output-stream.blocking-write-and-flush" (func $write))
  (core module $libc (memory (export "memory") 2)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536)))
  (core instance $libc (instantiate $libc))
  (alias core export $libc "memory" (core memory $m)) (alias core export $libc "realloc" (core func $r))
  (core func $get' (canon lower (func $get)))
  (core func $write' (canon lower (func $write) (memory $m) (realloc $r)))
  (core func $drop' (canon resource.drop $out))
  (core module $main
    (import "h" "memory" (memory 1)) (import "h" "get" (func $get (result i32)))
    (import "h" "write" (func $write (param i32 i32 i32 i32))) (import "h" "drop" (func $drop (param i32)))
    (data (i32.const 64) "hello\0a")
    (func (export "run") (result i32) (local $out i32)
      (local.set $out (call $get))
      (call $write (local.get $out) (i32.const 64) (i32.const 6) (i32.const 0))
      (call $drop (local.get $out))
      BEHAVIOUR))
  (core instance $main (instantiate $main (with "h" (instance
    (export "memory" (memory $m)) (export "get" (func $get')) (export "write" (func $write'))
    (export "drop" (func $drop'))))))
  (func $run (result (result)) (canon lift (core func $main "run")))
  (instance $command (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $command)))
