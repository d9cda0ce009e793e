package froc

// Hits reports whether a mark satisfies the hit rule for a lesion of an image whose units
// are millimetres, other lesions aside. The regions must be of kinds that the rule can
// compare; see [Evaluate].
func (p *Protocol) Hits(mark, lesion Region) bool {
	m := matcher{protocol: p, truth: &Truth{Lesions: []Lesion{{Region: lesion}}}, predictions: []Prediction{{Region: mark}}, frame: p.frame(&Image{})}
	_, hit := m.hit(p.Hit, 0, 0)
	return hit
}
