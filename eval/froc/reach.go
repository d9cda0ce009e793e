package froc

// Hits reports whether a mark satisfies the hit rule for a lesion of an image whose units
// are millimetres, other lesions aside. The regions must be of kinds that the rule can
// compare; see [Evaluate].
func (p *Protocol) Hits(mark, lesion Region) bool {
	f := p.frame(&Image{})
	_, hit := hits(p.Hit, &mark, &lesion, &f)
	return hit
}
