// A reader of exported audit logs that shares no code with emitd: the tree, the proofs and the signatures are those of
// golang.org/x/mod/sumdb.
//
//	goreader log VKEY URL [SIZE ROOT]
//	goreader proof VKEY FILE
//	goreader note VKEY FILE
//
// The first fetches the checkpoint under URL, verifies its signature by VKEY, proves every entry to be in the tree, and,
// with the size and the root (in base64) of an older checkpoint, that the log still begins as it did then. The second
// verifies a proof file that has its entry in it. The third opens a signed note, such as the statement by which a key
// vouches for the next. Each prints one line that begins with "ok", or ends with 1 and says why.
package main

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const tileHeight = 8

// folder reads files under a URL, each once.
type folder struct {
	url   string
	files map[string][]byte
}

func (f *folder) read(path string) ([]byte, error) {
	if data, ok := f.files[path]; ok {
		return data, nil
	}
	response, err := http.Get(f.url + "/" + path)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", path, response.Status)
	}
	data, err := io.ReadAll(response.Body)
	if err == nil {
		f.files[path] = data
	}
	return data, err
}

// Height is of the interface tlog.TileReader, as are the two methods below.
func (f *folder) Height() int { return tileHeight }

func (f *folder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	contents := make([][]byte, 0, len(tiles))
	for _, tile := range tiles {
		data, err := f.read(tilePath(tile))
		if err != nil {
			return nil, err
		}
		contents = append(contents, data)
	}
	return contents, nil
}

func (f *folder) SaveTiles([]tlog.Tile, [][]byte) {}

// tilePath is where C2SP tlog-tiles puts a tile; level -1 has the entries.
func tilePath(tile tlog.Tile) string {
	level := "entries"
	if tile.L >= 0 {
		level = strconv.Itoa(tile.L)
	}
	number := fmt.Sprintf("%03d", tile.N%1000)
	for rest := tile.N / 1000; rest > 0; rest /= 1000 {
		number = fmt.Sprintf("x%03d/%s", rest%1000, number)
	}
	path := "tile/" + level + "/" + number
	if tile.W < 1<<tileHeight {
		path += fmt.Sprintf(".p/%d", tile.W)
	}
	return path
}

func openCheckpoint(signed []byte, vkey string) (tree tlog.Tree, err error) {
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return tree, err
	}
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return tree, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) < 4 || lines[0] != verifier.Name() {
		return tree, errors.New("the checkpoint is of another log")
	}
	return parseTree(lines[1], lines[2])
}

func parseTree(size, root string) (tree tlog.Tree, err error) {
	if tree.N, err = strconv.ParseInt(size, 10, 64); err != nil {
		return tree, err
	}
	tree.Hash, err = tlog.ParseHash(root)
	return tree, err
}

// readEntries returns the entries of the bundle with a number.
func (f *folder) readEntries(number int64, width int) (entries [][]byte, err error) {
	data, err := f.read(tilePath(tlog.Tile{H: tileHeight, L: -1, N: number, W: width}))
	if err != nil {
		return nil, err
	}
	for len(data) > 0 {
		if len(data) < 2 || len(data)-2 < int(binary.BigEndian.Uint16(data)) {
			return nil, fmt.Errorf("bundle %d is cut", number)
		}
		end := 2 + int(binary.BigEndian.Uint16(data))
		entries, data = append(entries, data[2:end]), data[end:]
	}
	if len(entries) != width {
		return nil, fmt.Errorf("bundle %d has %d entries, not %d", number, len(entries), width)
	}
	return entries, nil
}

func (f *folder) proveEntries(tree tlog.Tree, hashes tlog.HashReader) error {
	const full = 1 << tileHeight
	for first := int64(0); first < tree.N; first += full {
		entries, err := f.readEntries(first/full, int(min(full, tree.N-first)))
		if err != nil {
			return err
		}
		for n, entry := range entries {
			index := first + int64(n)
			proof, err := tlog.ProveRecord(tree.N, index, hashes)
			if err != nil {
				return err
			}
			if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
				return fmt.Errorf("entry %d: %w", index, err)
			}
		}
	}
	return nil
}

func proveOlder(tree, older tlog.Tree, hashes tlog.HashReader) error {
	proof, err := tlog.ProveTree(tree.N, older.N, hashes)
	if err != nil {
		return err
	}
	return tlog.CheckTree(proof, tree.N, tree.Hash, older.N, older.Hash)
}

func readLog(vkey, url string, older []string) error {
	f := &folder{strings.TrimSuffix(url, "/"), map[string][]byte{}}
	signed, err := f.read("checkpoint")
	if err != nil {
		return err
	}
	tree, err := openCheckpoint(signed, vkey)
	if err != nil {
		return err
	}
	hashes := tlog.TileHashReader(tree, f)
	root, err := tlog.TreeHash(tree.N, hashes)
	if err != nil {
		return err
	}
	if root != tree.Hash {
		return errors.New("the tiles lead to another root")
	}
	if err := f.proveEntries(tree, hashes); err != nil {
		return err
	}
	if len(older) > 0 {
		old, err := parseTree(older[0], older[1])
		if err != nil {
			return err
		}
		if err := proveOlder(tree, old, hashes); err != nil {
			return fmt.Errorf("it does not begin as it did with %d entries: %w", old.N, err)
		}
	}
	fmt.Printf("ok %d %s\n", tree.N, tree.Hash)
	return nil
}

// readProof verifies a proof file (C2SP tlog-proof) whose extra data is the entry.
func readProof(vkey, file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	head, signed, _ := strings.Cut(string(data), "\n\n")
	lines := strings.Split(head, "\n")
	if len(lines) < 3 || lines[0] != "c2sp.org/tlog-proof@v1" {
		return errors.New("this is no proof with an entry in it")
	}
	tree, err := openCheckpoint([]byte(signed), vkey)
	if err != nil {
		return err
	}
	entry, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(lines[1], "extra "))
	if err != nil {
		return err
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[2], "index "), 10, 64)
	if err != nil {
		return err
	}
	var proof tlog.RecordProof
	for _, line := range lines[3:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return err
		}
		proof = append(proof, hash)
	}
	if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
		return err
	}
	fmt.Printf("ok %d of %d %s\n", index, tree.N, entry)
	return nil
}

func readNote(vkey, file string) error {
	signed, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	verifier, err := note.NewVerifier(vkey)
	if err != nil {
		return err
	}
	opened, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return err
	}
	fmt.Printf("ok %s\n", strings.ReplaceAll(strings.TrimSpace(opened.Text), "\n", "|"))
	return nil
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 3 && arguments[0] == "note":
		return readNote(arguments[1], arguments[2])
	case len(arguments) == 3 && arguments[0] == "proof":
		return readProof(arguments[1], arguments[2])
	case (len(arguments) == 3 || len(arguments) == 5) && arguments[0] == "log":
		return readLog(arguments[1], arguments[2], arguments[3:])
	}
	return errors.New("usage: goreader log VKEY URL [SIZE ROOT] | goreader proof VKEY FILE | goreader note VKEY FILE")
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
