"""One object of each clinical area, made so that dciodvfy finds no error in it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pydicom
from pydicom.dataset import Dataset

from tests.support.objects import new_uid

ROWS = COLUMNS = 64


def code(value: str, scheme: str, meaning: str) -> Dataset:
    made = Dataset()
    made.CodeValue, made.CodingSchemeDesignator, made.CodeMeaning = value, scheme, meaning
    return made


def base(sop_class: str, modality: str) -> Dataset:
    """Patient, study, series and equipment of a composite object."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, new_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = new_uid(), new_uid()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber, ds.StudyID = "20260102", "101500", "A0001", "1"
    ds.SeriesDate, ds.SeriesTime, ds.ContentDate, ds.ContentTime = "20260102", "101500", "20260102", "101500"
    ds.Modality, ds.Manufacturer, ds.ManufacturerModelName = modality, "Edge", "Area"
    ds.DeviceSerialNumber, ds.SoftwareVersions = "1", "1"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Test^Patient", "P0001", "19700101", "O"
    ds.ReferringPhysicianName, ds.SeriesNumber, ds.InstanceNumber = "", 1, 1
    ds.StudyDescription = "Area"
    return ds


def gray(ds: Dataset, bits: int = 16, frames: int = 0) -> Dataset:
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", ROWS, COLUMNS
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits, bits, bits - 1, 0
    if frames:
        ds.NumberOfFrames = frames
    ds.add_new(0x7FE00010, "OW", random.Random(7).randbytes(ROWS * COLUMNS * bits // 8 * max(1, frames)))
    return ds


def color(ds: Dataset) -> Dataset:
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 3, "RGB", ROWS, COLUMNS
    ds.PlanarConfiguration, ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 0, 8, 8, 7, 0
    ds.add_new(0x7FE00010, "OW", random.Random(7).randbytes(ROWS * COLUMNS * 3))
    return ds


def ct() -> Dataset:
    ds = base("1.2.840.10008.5.1.4.1.1.2", "CT")
    ds.ImageType, ds.FrameOfReferenceUID, ds.Laterality = ["ORIGINAL", "PRIMARY", "AXIAL"], new_uid(), ""
    ds.PositionReferenceIndicator, ds.PatientPosition, ds.KVP, ds.AcquisitionNumber = "", "HFS", "120", 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = ["0", "0", "0"], ["1", "0", "0", "0", "1", "0"]
    ds.PixelSpacing, ds.SliceThickness, ds.RescaleIntercept, ds.RescaleSlope = ["0.5", "0.5"], "1", "-1024", "1"
    return gray(ds)


def animal() -> Dataset:
    ds = ct()
    ds.PatientSpeciesDescription, ds.PatientBreedDescription, ds.ResponsiblePerson = "Canis", "Beagle", "Owner^A"
    ds.ResponsiblePersonRole, ds.PatientSexNeutered, ds.ResponsibleOrganization = "OWNER", "UNALTERED", ""
    ds.PatientBreedCodeSequence, ds.BreedRegistrationSequence = [], []
    return ds


def ultrasound(body: str) -> Dataset:
    ds = base("1.2.840.10008.5.1.4.1.1.6.1", "US")
    ds.ImageType, ds.BodyPartExamined, ds.LossyImageCompression = ["ORIGINAL", "PRIMARY"], body, "00"
    ds.PatientOrientation, ds.UltrasoundColorDataPresent = "", 1
    if body == "FETUS":
        ds.Laterality = ""
    return color(ds)


def visible_light(sop_class: str, modality: str) -> Dataset:
    ds = base(sop_class, modality)
    ds.ImageType, ds.LossyImageCompression, ds.PatientOrientation = ["ORIGINAL", "PRIMARY"], "00", ""
    ds.AcquisitionContextSequence, ds.BurnedInAnnotation = [], "NO"
    ds.AnatomicRegionSequence, ds.Laterality = [code("39937001", "SCT", "Skin")], ""
    return color(ds)


def slide() -> Dataset:
    ds = visible_light("1.2.840.10008.5.1.4.1.1.77.1.2", "GM")
    del ds.Laterality
    ds.ContainerIdentifier, ds.IssuerOfTheContainerIdentifierSequence = "S1", []
    ds.ContainerTypeCodeSequence = [code("433466003", "SCT", "Microscope slide")]
    specimen = Dataset()
    specimen.SpecimenIdentifier, specimen.SpecimenUID = "S1-A", new_uid()
    specimen.IssuerOfTheSpecimenIdentifierSequence, specimen.SpecimenPreparationSequence = [], []
    ds.SpecimenDescriptionSequence = [specimen]
    return ds


def fundus() -> Dataset:
    ds = base("1.2.840.10008.5.1.4.1.1.77.1.5.1", "OP")
    ds.ImageType, ds.LossyImageCompression, ds.PatientOrientation = ["ORIGINAL", "PRIMARY"], "00", ["L", "F"]
    ds.BurnedInAnnotation, ds.AcquisitionDateTime, ds.ImageLaterality = "NO", "20260102101500", "R"
    ds.HorizontalFieldOfView, ds.PatientEyeMovementCommanded, ds.PupilDilated = 45.0, "NO", "NO"
    ds.RefractiveStateSequence, ds.EmmetropicMagnification, ds.IntraOcularPressure = [], None, None
    ds.AcquisitionDeviceTypeCodeSequence = [code("409898007", "SCT", "Fundus camera")]
    ds.IlluminationTypeCodeSequence, ds.LightPathFilterTypeStackCodeSequence = [], []
    ds.ImagePathFilterTypeStackCodeSequence, ds.LensesCodeSequence = [], []
    ds.DetectorType = "CCD"
    ds.RelativeImagePositionCodeSequence = [code("110851", "DCM", "Image position")]
    ds.AnatomicRegionSequence, ds.AcquisitionContextSequence = [code("81745001", "SCT", "Eye")], []
    ds.PixelSpacing, ds.NumberOfFrames, ds.SynchronizationTrigger = ["0.01", "0.01"], 1, "NO TRIGGER"
    ds.SynchronizationFrameOfReferenceUID, ds.AcquisitionTimeSynchronized = new_uid(), "N"
    ds.FrameIncrementPointer, ds.FrameTime = 0x00181063, "40"
    return color(ds)


def refraction() -> Dataset:
    ds = base("1.2.840.10008.5.1.4.1.1.78.2", "AR")
    ds.MeasurementLaterality, right = "R", Dataset()
    right.SpherePower = -1.25
    ds.AutorefractionRightEyeSequence = [right]
    ds.PerformedProcedureCodeSequence = []
    return ds


def nuclear() -> Dataset:
    ds = base("1.2.840.10008.5.1.4.1.1.20", "NM")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "STATIC", "EMISSION"]
    ds.PixelSpacing, ds.PatientOrientation, ds.Laterality = ["4", "4"], "", ""
    ds.FrameIncrementPointer = [0x00540010, 0x00540020]
    ds.EnergyWindowVector, ds.DetectorVector = [1], [1]
    ds.NumberOfEnergyWindows, ds.NumberOfDetectors = 1, 1
    ds.EnergyWindowInformationSequence, ds.RadiopharmaceuticalInformationSequence = [Dataset()], [Dataset()]
    ds.RadiopharmaceuticalInformationSequence[0].RadionuclideCodeSequence = []
    detector = Dataset()
    detector.CollimatorType, detector.ImagePositionPatient, detector.ImageOrientationPatient = "PARA", None, None
    detector.FocalDistance, detector.ZoomFactor = "0", ["1", "1"]
    ds.DetectorInformationSequence = [detector]
    ds.CountsAccumulated, ds.ActualFrameDuration, ds.AcquisitionTerminationCondition = 1000, 60000, "TIME"
    ds.PatientOrientationCodeSequence = [code("102538003", "SCT", "recumbent")]
    ds.PatientOrientationCodeSequence[0].PatientOrientationModifierCodeSequence = [code("40199007", "SCT", "supine")]
    ds.PatientGantryRelationshipCodeSequence = [code("102540008", "SCT", "headfirst")]
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = new_uid(), ""
    return gray(ds, frames=1)


def radiotherapy() -> Dataset:
    ds = base("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT")
    del ds.ContentDate, ds.ContentTime
    ds.OperatorsName, ds.StructureSetLabel = "", "PLAN"
    ds.StructureSetDate, ds.StructureSetTime, ds.InstanceNumber = "20260102", "101500", 1
    ds.FrameOfReferenceUID = new_uid()
    frame = Dataset()
    frame.FrameOfReferenceUID = ds.FrameOfReferenceUID
    ds.ReferencedFrameOfReferenceSequence = [frame]
    region = Dataset()
    region.ROINumber, region.ReferencedFrameOfReferenceUID, region.ROIName = 1, ds.FrameOfReferenceUID, "PTV"
    region.ROIGenerationAlgorithm = ""
    ds.StructureSetROISequence = [region]
    contour = Dataset()
    contour.ReferencedROINumber, contour.ROIDisplayColor = 1, [255, 0, 0]
    ds.ROIContourSequence = [contour]
    seen = Dataset()
    seen.ObservationNumber, seen.ReferencedROINumber, seen.RTROIInterpretedType, seen.ROIInterpreter = 1, 1, "PTV", ""
    ds.RTROIObservationsSequence, ds.PositionReferenceIndicator = [seen], ""
    return ds


def tooth() -> Dataset:
    ds = base("1.2.840.10008.5.1.4.1.1.1.3", "IO")
    ds.PresentationIntentType, ds.ImageType = "FOR PRESENTATION", ["ORIGINAL", "PRIMARY"]
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LIN", 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    ds.PresentationLUTShape, ds.LossyImageCompression, ds.BurnedInAnnotation = "IDENTITY", "00", "NO"
    ds.WindowCenter, ds.WindowWidth, ds.PatientOrientation = "32768", "65536", ["L", "F"]
    ds.ImageLaterality, ds.ImagerPixelSpacing, ds.DetectorType = "L", ["0.02", "0.02"], "DIRECT"
    ds.PositionerType, ds.AcquisitionContextSequence, ds.AcquisitionDeviceProcessingDescription = "NONE", [], ""
    ds.AnatomicRegionSequence = [code("69536005", "SCT", "Head")]
    ds.PrimaryAnatomicStructureSequence = [code("38199008", "SCT", "Tooth")]
    return gray(ds)


@dataclass(frozen=True)
class Area:
    """A clinical area, and what makes an object of it."""

    name: str
    kind: str
    make: Callable[[], Dataset]


AREAS = (
    Area("radiology", "CT Image", ct),
    Area("cardiology", "Ultrasound Image (echocardiogram)", lambda: ultrasound("HEART")),
    Area("dental", "Digital Intra-Oral X-Ray Image", tooth),
    Area("endoscopy", "VL Endoscopic Image", lambda: visible_light("1.2.840.10008.5.1.4.1.1.77.1.1", "ES")),
    Area("nuclear medicine", "Nuclear Medicine Image", nuclear),
    Area("radiotherapy", "RT Structure Set", radiotherapy),
    Area("obstetrics", "Ultrasound Image (fetus)", lambda: ultrasound("FETUS")),
    Area("gynecology", "Ultrasound Image (uterus)", lambda: ultrasound("UTERUS")),
    Area("ophthalmology", "Ophthalmic Photography 8 Bit Image", fundus),
    Area("optometry", "Autorefraction Measurements", refraction),
    Area("dermatology", "VL Photographic Image (skin)",
         lambda: visible_light("1.2.840.10008.5.1.4.1.1.77.1.4", "XC")),
    Area("pathology", "VL Microscopic Image", slide),
    Area("veterinary medicine", "CT Image of an animal", animal),
    Area("medical photography", "VL Photographic Image",
         lambda: visible_light("1.2.840.10008.5.1.4.1.1.77.1.4", "XC")),
)  # fmt: skip


def file_of(area: Area) -> tuple[pydicom.Dataset, bytes]:
    """The object, and as a Part 10 file."""
    from tests.support.objects import part10

    made = area.make()
    return made, part10(made)
