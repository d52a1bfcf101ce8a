// The standard library's HTTP server on descriptor 3. GET /end ends it.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
)

func main() {
	if err := syscall.SetNonblock(3, true); err != nil {
		panic(err)
	}
	listener, err := net.FileListener(os.NewFile(3, "web"))
	if err != nil {
		panic(err)
	}
	http.HandleFunc("/", func(answer http.ResponseWriter, request *http.Request) {
		fmt.Fprintf(answer, "%s %s %d\n", request.Method, request.URL.Path, request.ContentLength)
	})
	http.HandleFunc("/end", func(answer http.ResponseWriter, _ *http.Request) {
		answer.Header().Set("Connection", "close")
		go os.Exit(7)
	})
	panic(http.Serve(listener, nil))
}
