// Reads the package's data with nothing but the standard library.
package main

import (
	"fmt"
	"os"
)

func main() {
	entries, err := os.ReadDir("/package")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, entry := range entries {
		if entry.IsDir() {
			fmt.Println(entry.Name(), "dir")
			continue
		}
		info, err := entry.Info()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(entry.Name(), info.Size())
	}
	data, err := os.ReadFile("/package/sub/b.txt")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(string(data))
	fmt.Println("write refused", os.WriteFile("/package/new", data, 0o600) != nil)
}
