package audit

import (
	"io"

	"sallyport/signer/clawverify"
)

// ManifestOnly is the part of Archive that stands before everything else: what it finds, Archive finds.
func ManifestOnly(r io.ReaderAt, size int64, c *Config) *clawverify.Report {
	a := newAuditor(c)
	b, err := openBag(r, size)
	if err != nil {
		a.fail(checkArchive, ArchiveMalformed, "zip", "%v", err)
		return a.report(KindArchive, nil)
	}
	a.manifest(b)
	return a.report(KindArchive, nil)
}
