package iis

// Values are those of all attributes that are kept of a document.
func Values(data []byte) ([]string, error) {
	root, err := readXML(data)
	if err != nil {
		return nil, err
	}
	var list []string
	root.walk(func(e *element) {
		for _, a := range e.attrs {
			list = append(list, a.value)
		}
	})
	return list, nil
}
