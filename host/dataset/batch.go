package dataset

import (
	"github.com/alignedfusion/alignedfusion/sdk"
	"github.com/alignedfusion/alignedfusion/sdk/tensor"
)

// LoadOptions say how pixels become tensors.
type LoadOptions struct {
	// Slices is the depth D of the volume; 0 takes it from the encoder's port
	// "volume", else 1.
	Slices int
	// SliceSpacingMM is the distance the slices are resampled to; 0 means 2.
	SliceSpacingMM float64
	// Size is the side in pixels that the longer side of an image is resized to,
	// keeping the ratio; 0 keeps the original size times Zoom.
	Size int
	// BagSize is the number of patches that are shown of a slide; 0 means 64.
	BagSize int
	// Zoom is network pixels per original pixel where Size is 0; 0 means 1.
	Zoom float64
	// Crop cuts training crops of CropSize x CropSize network pixels; 0 is no crop.
	// Evaluation uses whole images: leave it 0 there.
	CropSize int
	// PositiveCrop is the probability that a crop is laid around a lesion of the
	// image instead of anywhere in it.
	PositiveCrop float64
	// Intensity overrides what the ports declare.
	Intensity *sdk.Intensity
	// SizeMultiple overrides what the ports declare: height and width are padded
	// to multiples of it.
	SizeMultiple int
	Augment      AugmentOptions
	Seed         uint64
}

// AugmentOptions say what is varied at random, per sample; the zero value varies
// nothing. Detection and pictures share the geometric part; all slices of a volume
// are transformed together, boxes with them.
type AugmentOptions struct {
	// ShiftScaleRotate is the probability of a random shift (fraction of the side,
	// Shift), scale (1 +- Scale) and rotation (+- RotateDeg) about the centre.
	ShiftScaleRotate        float64
	Shift, Scale, RotateDeg float64
	// FlipX and FlipY are the probabilities of mirroring left-right and up-down.
	FlipX, FlipY float64
	// Transpose is the probability of a quarter turn.
	Transpose float64
	// ResizedCropMin is the smallest share of the picture's area that a random
	// resized crop keeps; 0 is no such crop.
	ResizedCropMin float64
	// Brightness, Contrast and Saturation are the largest relative changes. For
	// volumes brightness and contrast act on the windowed values; saturation is for
	// pictures.
	Brightness, Contrast, Saturation float64
	// NoiseStd is the standard deviation of Gaussian noise as a fraction of the
	// output range.
	NoiseStd float64
}

// DetectionAugment is the published recipe for DeepLesion: ShiftScaleRotate with
// p = 0.8 (shift 0.04, scale 0.2, 15 degrees) and a horizontal flip with p = 0.5.
func DetectionAugment() AugmentOptions {
	return AugmentOptions{ShiftScaleRotate: 0.8, Shift: 0.04, Scale: 0.2, RotateDeg: 15, FlipX: 0.5}
}

// AnyWayAugment is DetectionAugment for small lesions that look alike any way up, with
// quarter turns, both mirrorings, and slight changes of brightness, contrast and noise.
func AnyWayAugment() AugmentOptions {
	return AugmentOptions{ShiftScaleRotate: 0.8, Shift: 0.04, Scale: 0.2, RotateDeg: 30, FlipX: 0.5, FlipY: 0.5, Transpose: 0.5,
		Brightness: 0.05, Contrast: 0.15, NoiseStd: 0.01}
}

// PictureAugment is the usual recipe for photographs of skin lesions, which have
// no up or down: flips, turns, random resized crop, brightness and contrast.
func PictureAugment() AugmentOptions {
	return AugmentOptions{ShiftScaleRotate: 0.8, Scale: 0.1, RotateDeg: 45, FlipX: 0.5, FlipY: 0.5, Transpose: 0.5,
		ResizedCropMin: 0.6, Brightness: 0.2, Contrast: 0.2, Saturation: 0.2}
}

// LoaderOptions steer NewLoader.
type LoaderOptions struct {
	Load LoadOptions
	// Batch is the number of cases per batch; 0 means 1.
	Batch int
	// SameSize ends a batch before a case whose network input would have another size: nothing
	// is padded that would not be alone.
	SameSize bool
	// Shuffle puts the cases into an order drawn from Load.Seed and Epoch.
	Shuffle bool
	// Balance, with Shuffle, draws as many cases in all, from every class equally often: of
	// the first label set, of images with boxes their rarest class. Cases of unknown label,
	// and images without a box, are a class of their own.
	Balance bool
	Epoch   int
	// Start skips that many batches: a resumed epoch continues where it stopped.
	Start int
	// DropLast leaves out a last batch that is not full.
	DropLast bool
	// Rank and Ranks give this process its part of every batch, which then has Ranks times
	// Batch cases in all. Ranks of 0 is 1.
	Rank, Ranks int
	// Workers decode in parallel; 0 means two less than CPUs, at least one. The batches do not
	// depend on it.
	Workers int
	// CPUs of this process; 0 means all of the machine.
	CPUs int
	// Prefetch is the number of finished batches kept ahead; 0 means 2, or as many as hold a
	// sample of every worker. At most Prefetch+1 batches and Workers decoded samples are in memory.
	Prefetch int
	// Ports are the inputs of the encoder: they name the modalities wanted, the
	// depth, the intensity range and the size multiple. nil loads every modality.
	Ports []sdk.Port
	// Targets adds the target.* tensors; it is an error for cases without targets.
	Targets bool
	// Cache keeps decoded slices and pictures between epochs; nil keeps none.
	Cache *Cache
}

// Batch is what a Loader delivers. Tensors are, with N the number of cases:
//
//	volume              FP32 [N,1,D,H,W]  intensities as the port declares
//	spacing             FP32 [N,3]        mm between network pixels, z,y,x
//	image.<modality>    FP32 [N,3,H,W]
//	bag.<modality>      FP32 [N,P,3,H,W]  P patches of each slide
//	target.boxes        FP32 [M,4]        x1,y1,x2,y2 in network pixels; M may be 0
//	target.image        INT32 [M]         which of the N images
//	target.class        INT64 [M]
//	target.recist       FP32 [M,8]        NaN where the layout has no diameters
//	target.ignore       FP32 [I,4]        boxes around regions to ignore
//	target.ignore.image INT32 [I]
//	target.label        INT64 [N]         or one target.label.<task> per label set; where a time
//	                                      is asked the interval
//	target.value        FP32 [N]          in its place where a number is asked, likewise
//	target.censored     INT8 [N]          beside it where a time is asked, likewise
//
// Spacing that the data do not give is delivered as 1 mm in the plane and the
// loader's slice distance in z.
type Batch struct {
	// Index is the number of the batch in its epoch, from 0.
	Index int
	Cases []Case
	// Weight makes a mean over these cases this process's part of the mean over the whole
	// batch: 1 unless processes share it unevenly.
	Weight   float64
	Tensors  map[string]*tensor.Tensor
	Geometry []Geometry
	// Bags are the numbers of the patches that each slide shows (Patch.Number); nil where the
	// cases are no slides.
	Bags [][]int
	// Absent says, by modality, which cases lack its picture; modalities that no case lacks
	// are left out. In the place of such a picture stands that of the first case that has one
	// (zeros where none has): statistics over a batch should not see what is not there.
	Absent map[string][]bool
}
