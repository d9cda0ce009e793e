package dataset

import (
	"fmt"
	"image/color"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func skin(t testing.TB, paths ...string) {
	t.Helper()
	for _, path := range paths {
		write(t, path, rgbPNG(t, 8, 6, func(x, y int) color.NRGBA { return color.NRGBA{uint8(20 * x), uint8(20 * y), 90, 255} }))
	}
}

// milkDir has three lesions to train on and one to answer; folders may be nested, as unpacked archives are.
func milkDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	meta := "lesion_id,image_type,isic_id,attribution,copyright_license,age_approx,image_manipulation,sex,skin_tone_class,site,MONET_hair\n"
	truth := "lesion_id,AKIEC,BCC,BEN_OTH,BKL,DF,INF,MAL_OTH,MEL,NV,SCCKA,VASC\n"
	for i, class := range []int{1, 7, 8} {
		one := strings.Split("0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0", ",")
		one[class] = "1.0"
		truth += fmt.Sprintf("IL_%d,%s\n", i, strings.Join(one, ","))
		meta += fmt.Sprintf("IL_%d,dermoscopic,ISIC_%dd,a,CC-BY,40,,female,3,trunk,0.2\nIL_%d,clinical: close-up,ISIC_%dc,a,CC-BY,40,,female,3,trunk,0.7\n", i, i, i, i)
		skin(t, filepath.Join(dir, fmt.Sprintf("MILK10k_Training_Input/MILK10k_Training_Input/IL_%d/ISIC_%dd.jpg", i, i)),
			filepath.Join(dir, fmt.Sprintf("MILK10k_Training_Input/MILK10k_Training_Input/IL_%d/ISIC_%dc.jpg", i, i)))
	}
	write(t, filepath.Join(dir, "MILK10k_Training_Metadata.csv"), meta)
	write(t, filepath.Join(dir, "MILK10k_Training_GroundTruth.csv"), truth)
	write(t, filepath.Join(dir, "MILK10k_Test_Metadata.csv"),
		"lesion_id,image_type,isic_id,age_approx,sex,skin_tone_class,site,MONET_hair\nIL_9,clinical: close-up,ISIC_9c,,male,4,foot,0.1\nIL_9,dermoscopic,ISIC_9d,,male,4,foot,0.3\n")
	skin(t, filepath.Join(dir, "MILK10k_Test_Input/IL_9/ISIC_9c.jpg"), filepath.Join(dir, "MILK10k_Test_Input/IL_9/ISIC_9d.jpg"))
	return dir
}

func TestMILK10kIsALesionWithTwoPictures(t *testing.T) {
	dir := milkDir(t)
	d := mustOpen(t, "milk10k:"+dir, Options{})
	if len(d.Cases) != 4 || fmt.Sprint(d.Modalities) != "[image.clinic image.derm]" || fmt.Sprint(d.Labels[0].Classes) != "[BCC MEL NV]" {
		t.Fatalf("%d cases, %v, %v", len(d.Cases), d.Modalities, d.Labels)
	}
	last := d.Cases[3]
	if last.ID != "IL_9" || last.Split != "test" || last.HasTargets || last.Images["image.derm"] != filepath.Join(dir, "MILK10k_Test_Input/IL_9/ISIC_9d.jpg") {
		t.Errorf("%+v", last)
	}
	want := map[string]string{"age_approx": "40", "sex": "female", "skin_tone_class": "3", "site": "trunk", "derm_hair": "0.2", "clinic_hair": "0.7"}
	if diff := cmp.Diff(want, texts(d.Cases[0].Attributes)); diff != "" {
		t.Error(diff)
	}
	if got := d.Cases[1].Labels["label"]; d.Labels[0].Classes[got] != "MEL" {
		t.Errorf("label %d", got)
	}
	if d.Entry.Key != "lesion_id" || len(d.Entry.Columns) != 11 || d.Entry.Columns[9] != (EntryColumn{"SCCKA", "SCCKA"}) {
		t.Errorf("%+v", d.Entry)
	}
}

func TestISIC2019AndItsTestPart(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ISIC_2019_Training_GroundTruth.csv"), "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK\nISIC_1,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0\nISIC_2_downsampled,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0\n")
	write(t, filepath.Join(dir, "ISIC_2019_Training_Metadata.csv"), "image,age_approx,anatom_site_general,lesion_id,sex\nISIC_2_downsampled,,head/neck,,male\nISIC_1,55.0,anterior torso,BCN_1,female\n")
	write(t, filepath.Join(dir, "ISIC_2019_Test_Metadata.csv"), "image,age_approx,anatom_site_general,sex\nISIC_3,30.0,,female\n")
	skin(t, filepath.Join(dir, "ISIC_2019_Training_Input/ISIC_1.jpg"), filepath.Join(dir, "ISIC_2019_Training_Input/ISIC_2_downsampled.jpg"),
		filepath.Join(dir, "ISIC_2019_Test_Input/ISIC_3.jpg"))
	d := mustOpen(t, "isic:"+dir, Options{})
	if got := fmt.Sprint(d.Cases[0].ID, d.Cases[0].Strata, texts(d.Cases[0].Attributes), texts(d.Cases[1].Attributes), d.Cases[2].Split, d.Labels[0].Classes); got !=
		"ISIC_1map[lesion:BCN_1] map[age_approx:55.0 anatom_site_general:anterior torso sex:female] map[age_approx: anatom_site_general:head/neck sex:male]test[MEL NV]" {
		t.Error(got)
	}
	if d.Entry.Key != "image" || d.Entry.Columns[8].Name != "UNK" {
		t.Errorf("%+v", d.Entry)
	}
}

func TestISIC2020IsMelanomaOrNot(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "ISIC_2020_Training_GroundTruth.csv"), "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target\nISIC_1,IP_1,male,45.0,torso,unknown,benign,0\nISIC_2,IP_2,female,,head/neck,melanoma,malignant,1\n")
	write(t, filepath.Join(dir, "ISIC_2020_Test_Metadata.csv"), "image,patient,age_approx,anatom_site_general,sex\nISIC_3,IP_3,50.0,torso,male\n")
	skin(t, filepath.Join(dir, "train/ISIC_1.jpg"), filepath.Join(dir, "train/ISIC_2.jpg"), filepath.Join(dir, "ISIC_2020_Test_Input/ISIC_3.jpg"))
	d := mustOpen(t, "isic:"+dir, Options{})
	if got := fmt.Sprint(d.Labels[0].Classes, d.Cases[1].Patient, texts(d.Cases[1].Attributes), texts(d.Cases[2].Attributes), *d.Entry); got !=
		"[benign malignant]IP_2map[age_approx: anatom_site_general:head/neck sex:female] map[age_approx:50.0 anatom_site_general:torso sex:male] {image_name [{target malignant}]}" {
		t.Error(got)
	}
}

func padDir(t testing.TB, rows string) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "metadata.csv"), "patient_id,lesion_id,smoke,age,diagnostic,itch,img_id,biopsed\n"+rows)
	skin(t, filepath.Join(dir, "imgs_part_1/imgs_part_1/PAT_1_1_1.png"), filepath.Join(dir, "imgs_part_2/PAT_2_2_2.png"))
	return dir
}

func TestPADUFES20AsPublished(t *testing.T) {
	dir := padDir(t, "PAT_1,1,True,55,BCC,UNK,PAT_1_1_1.png,True\nPAT_2,2,,8,NEV,False,PAT_2_2_2.png,False\n")
	d := mustOpen(t, "pad-ufes-20:"+dir, Options{})
	if got := fmt.Sprint(d.AttributeColumns, texts(d.Cases[0].Attributes), d.Cases[1].Images, d.Labels[0].Classes, d.Entry.Key); got !=
		"[smoke age itch] map[age:55 itch: smoke:True] map[image.main:"+filepath.Join(dir, "imgs_part_2/PAT_2_2_2.png")+"] [BCC NEV]img_id" {
		t.Error(got)
	}
	// A patient's split follows from the patient's id; a column split takes its place.
	again := mustOpen(t, "pad-ufes-20:"+padDir(t, "PAT_2,2,,8,NEV,False,PAT_2_2_2.png,False\nPAT_1,1,True,55,BCC,UNK,PAT_1_1_1.png,True\n"), Options{})
	if d.Cases[0].Split != again.Cases[1].Split || d.Cases[1].Split != again.Cases[0].Split {
		t.Errorf("%s %s, then %s %s", d.Cases[0].Split, d.Cases[1].Split, again.Cases[1].Split, again.Cases[0].Split)
	}
	edit(t, filepath.Join(dir, "metadata.csv"), "biopsed\n", "biopsed,split\n")
	edit(t, filepath.Join(dir, "metadata.csv"), "PAT_1_1_1.png,True", "PAT_1_1_1.png,True,fold1")
	edit(t, filepath.Join(dir, "metadata.csv"), "PAT_2_2_2.png,False", "PAT_2_2_2.png,False,fold0")
	if d := mustOpen(t, "pad-ufes-20:"+dir, Options{}); d.Cases[0].Split != "fold1" {
		t.Errorf("split %q", d.Cases[0].Split)
	}
}

// About a tenth of the training cases validates, a lesion's pictures together.
func TestATenthOfAChallengesCasesValidates(t *testing.T) {
	n := 0
	for i := range 5000 {
		if partOf(fmt.Sprintf("IL_%07d", 7*i)) == "val" {
			n++
		}
	}
	if n < 400 || n > 600 {
		t.Errorf("%d of 5000", n)
	}
}

func TestChallengesAreRefusedByFileAndRow(t *testing.T) {
	for _, c := range []struct{ file, old, new, want string }{
		{"MILK10k_Training_GroundTruth.csv", "IL_0,0.0,1.0", "IL_0,1.0,1.0", "MILK10k_Training_GroundTruth.csv:2: BCC: is 1, and so is AKIEC"},
		{"MILK10k_Training_GroundTruth.csv", "IL_0,0.0,1.0", "IL_0,0.0,0.0", "none of the classes is 1"},
		{"MILK10k_Training_GroundTruth.csv", "IL_0,0.0,1.0", "IL_0,0.0,yes", `BCC: "yes", want 0 or 1`},
		{"MILK10k_Training_GroundTruth.csv", "IL_2,", "IL_7,", `MILK10k_Training_Metadata.csv:6: lesion_id: "IL_2" is not in MILK10k_Training_GroundTruth.csv`},
		{"MILK10k_Training_GroundTruth.csv", "SCCKA", "SCC", "SCCKA"},
		{"MILK10k_Training_Metadata.csv", "IL_1,dermoscopic", "IL_1,polaroid", `MILK10k_Training_Metadata.csv:4: image_type: "polaroid", want`},
		{"MILK10k_Training_Metadata.csv", "IL_1,dermoscopic", "IL_1,clinical: close-up", "a second picture of this kind"},
		{"MILK10k_Test_Metadata.csv", "ISIC_9d", "ISIC_8d", `MILK10k_Test_Metadata.csv:3: isic_id: there is no picture "ISIC_8d"`},
	} {
		dir := milkDir(t)
		edit(t, filepath.Join(dir, c.file), c.old, c.new)
		_, err := Open("milk10k:"+dir, Options{})
		wantError(t, err, c.want)
	}
	_, err := Open("pad-ufes-20:"+padDir(t, "PAT_1,1,True,55,BCCC,UNK,PAT_1_1_1.png,True\n"), Options{})
	wantError(t, err, `metadata.csv:2: diagnostic: "BCCC", want one of ACK`)
	for _, layout := range []string{"milk10k", "isic"} {
		_, err = Open(layout+":"+t.TempDir(), Options{})
		wantError(t, err, "there is no ")
	}
}
