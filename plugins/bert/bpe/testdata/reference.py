"""Ids by the tokenizers package (0.x) of Hugging Face, of small vocabularies trained here.

Run: python3 reference.py cases.json
"""

import json,sys,random
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers, normalizers
corpus=["Pleural effusion: no.","lesion size: 5 to 10 mm.","margin: possibly spiculated.","It's the patient's left lung, isn't it?  Two  blanks\n\nand lines.","naïve café 12,5 μm – Größe 肺 😀"]*3
def make(prefix,post,nfc):
    t=Tokenizer(models.BPE())
    if nfc: t.normalizer=normalizers.NFC()
    t.pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    t.train_from_iterator(corpus,trainers.BpeTrainer(vocab_size=380,special_tokens=["<s>","<pad>","</s>","<unk>","<mask>"],initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    if post=='roberta': t.post_processor=processors.RobertaProcessing(("</s>",2),("<s>",0),trim_offsets=True,add_prefix_space=prefix)
    else: t.post_processor=processors.TemplateProcessing(single="<s> $A </s>",special_tokens=[("<s>",0),("</s>",2)])
    return t
random.seed(1)
texts=["","a"," a","  a b","It's","we'll  they've 'tis","lesion size: 12.5 mm.","Größe\u00a0μm\n\n x ","e\u0301 naïve","肺 😀!!??  ","\t\tx  \n y","A1B2 3.4","''s","-- no --","under 30"]
alph="ab  'st1.\n\u00e9\u0301肺😀-Ⅷ½"
texts+=["".join(random.choice(alph) for _ in range(random.randint(1,14))) for _ in range(200)]
out=[]
for prefix,post,nfc in [(False,'roberta',False),(True,'template',True)]:
    t=make(prefix,post,nfc)
    out.append({"tokenizer":json.loads(t.to_str()),"cases":[{"text":x,"ids":t.encode(x).ids} for x in texts]})
json.dump(out,open(sys.argv[1],'w'),ensure_ascii=False)
