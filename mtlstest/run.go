package mtlstest

import (
	"errors"
	"fmt"
	"os"
)

// Run calls f with a TB, for programs and Examples, which have no testing.T. Its
// cleanups run, the last first, when f returns or panics. A Fatalf, which only
// f's own goroutine may call, ends f and is the error that Run returns.
func Run(f func(TB)) (err error) {
	p := &program{}
	defer func() {
		switch v := recover(); v := v.(type) {
		case nil:
		case fatal:
			err = v.error
		default:
			_ = p.close()
			panic(v)
		}
		err = errors.Join(err, p.close())
	}()
	f(p)
	return nil
}

// fatal is the panic of a Fatalf.
type fatal struct{ error }

// program is a TB outside of tests.
type program struct {
	cleanups []func()
	failed   []error
}

func (p *program) Helper() {}

func (p *program) Cleanup(f func()) { p.cleanups = append(p.cleanups, f) }

func (p *program) Fatalf(format string, args ...any) { panic(fatal{fmt.Errorf(format, args...)}) }

func (p *program) TempDir() string {
	dir, err := os.MkdirTemp("", "mtlstest")
	if err != nil {
		p.Fatalf("mtlstest: %v", err)
	}
	p.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			p.failed = append(p.failed, err)
		}
	})
	return dir
}

// close runs the cleanups, those that a cleanup adds and those after one that
// fails as well.
func (p *program) close() error {
	for len(p.cleanups) > 0 {
		last := len(p.cleanups) - 1
		f := p.cleanups[last]
		p.cleanups = p.cleanups[:last]
		p.clean(f)
	}
	return errors.Join(p.failed...)
}

func (p *program) clean(f func()) {
	defer func() {
		switch v := recover(); v := v.(type) {
		case nil:
		case fatal:
			p.failed = append(p.failed, v.error)
		default:
			panic(v)
		}
	}()
	f()
}
