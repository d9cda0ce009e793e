package plughost

// PackageEnding is how the name of a package of a plugin ends.
const PackageEnding = ".afp"
