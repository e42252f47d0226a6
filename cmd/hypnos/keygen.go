package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"

	"hypnos/core/edge"
)

func keygenCommand(_ context.Context, c console, args []string) error {
	f := newFlags(c, "keygen", "-o NAME", `
Makes a pair of ed25519 keys as PEM files: NAME.key, with which packages are signed (hypnos package --sign) and which stays with
their maker, and NAME.pub, which boards trust ("keys" in their configuration). Files that are there are kept.

Examples:
  hypnos keygen -o maker
  hypnos keygen -o keys/release-2026`)
	name := f.String("o", "", "`name` of the files, without .key and .pub")
	if _, err := f.parse(args); err != nil {
		return err
	}
	if *name == "" {
		return usageError{errors.New("which name? -o NAME")}
	}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	secret, err := edge.MarshalPrivateKey(private)
	if err != nil {
		return err
	}
	open, err := edge.MarshalPublicKey(public)
	if err != nil {
		return err
	}
	if err := writeNew(*name+".key", secret, 0o600); err != nil {
		return err
	}
	if err := writeNew(*name+".pub", open, 0o644); err != nil {
		return errors.Join(err, os.Remove(*name+".key"))
	}
	fmt.Fprintf(c.Out, "%s.key signs: keep it to yourself\n%s.pub is for boards: key %s\n", *name, *name, edge.KeyID(public))
	return nil
}

// writeNew writes a file that is not there yet.
func writeNew(path string, text []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// readPrivateKey reads a private key; nil of no file.
func readPrivateKey(path string) (ed25519.PrivateKey, error) {
	return readKey(path, edge.ParsePrivateKey)
}

// readPublicKey reads a public key; nil of no file.
func readPublicKey(path string) (ed25519.PublicKey, error) { return readKey(path, edge.ParsePublicKey) }

func readKey[K ~[]byte](path string, parse func([]byte) (K, error)) (K, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}
